"""One connection to a store in Postgres: made when it is needed, and again after whatever broke it."""

import math
import selectors
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rs_gateway.adapters.postgres_schema import PostgresSchema
from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError, StoreError

Row: TypeAlias = tuple[Any, ...]

_DEFAULTS = {
    "client_encoding": "utf8",
    # A server that vanished without a word is noticed within seconds, not after TCP's two hours.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_SESSION = (
    "SELECT set_config('lock_timeout', %s, false), "
    "set_config('default_transaction_isolation', 'read committed', false), "
    # A process that froze in the middle of a transaction must not hold up the others, nor the readers' horizon.
    "set_config('idle_in_transaction_session_timeout', '30s', false)"
)


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """Where a database is. Printing it shows no password.

    Attributes:
        url: as libpq reads it, without the password; whatever it leaves out comes from PGHOST, PGPASSWORD and the like.
    """

    url: str
    password: str | None = field(default=None, repr=False)

    def conninfo(self, **defaults: str) -> str:
        """For libpq, password and all: not to be shown. Raises ConfigurationError: the URL is none."""
        try:
            given = conninfo_to_dict(self.url)
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(
                f"{self.url!r} names no Postgres database ({_one_line(error)}): write "
                "postgresql://USER:${POSTGRES_PASSWORD}@HOST:5432/DATABASE."
            ) from None
        secret = {} if self.password is None else {"password": self.password}
        return make_conninfo("", **{**_DEFAULTS, **defaults, **given, **secret})


class PostgresDatabase:
    """A store's connection. Any thread may use it, one at a time; a server that was restarted is found again.

    Attributes:
        url: for messages.
        generation: how often it connected; what was read in an earlier one may be of another database.
    """

    def __init__(
        self,
        place: PostgresPlace,
        schema: PostgresSchema,
        *,
        busy_timeout_s: float = 5.0,
        fault: Callable[[str], RouteSwitchError] = StoreError,
        when_gone: Literal["make anew", "refuse"] = "make anew",
    ) -> None:
        """Nothing is connected yet.

        Args:
            busy_timeout_s: how long one statement waits for other sessions, and a connection for the server.
            fault: makes the error that this store's port promises out of a message.
            when_gone: what becomes of tables that were there once and are not any more.
        Raises:
            ConfigurationError: the URL is none.
        """
        self.url = place.url
        self.generation = 0
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        self._ready = False
        self._schema, self._busy_timeout_s, self._fault = schema, busy_timeout_s, fault
        self._when_gone = when_gone
        self._conninfo = place.conninfo(
            application_name=f"route-switch {schema.store}",
            connect_timeout=str(max(2, math.ceil(busy_timeout_s))),  # libpq takes no less
        )

    def open(self) -> None:
        """Connect now, and make or migrate the tables. Raises SchemaTooNewError, and what `fault` makes."""
        with self._lock, self._translated():
            self._connected(make=True)

    @contextmanager
    def writing(self) -> Generator[psycopg.Connection]:
        """One transaction: committed at the end of the block, undone when it raises. Makes missing tables.

        Raises:
            SchemaTooNewError, and what `fault` makes of a psycopg.Error: nothing was committed, as far as can be known.
        """
        with self._lock, self._translated():
            connection = self._connected(make=True)
            assert connection is not None
            connection.isolation_level, connection.read_only = None, None
            with connection.transaction():
                yield connection

    @contextmanager
    def reading(self) -> Generator[psycopg.Connection | None]:
        """A picture of one moment, for as many statements as the block has; None where there are no tables yet.

        Raises:
            SchemaTooNewError, and what `fault` makes: of a psycopg.Error, or since the tables are of an older program.
        """
        with self._lock, self._translated():
            connection = self._connected(make=False)
            if connection is None:
                yield None
                return
            connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
            with connection.transaction():
                yield connection

    def rows(self, query: bytes, parameters: Sequence[object]) -> list[Row]:
        """All rows of one query; none where there are no tables yet. Raises as `reading` does."""
        with self._lock, self._translated():
            connection = self._connected(make=False)
            if connection is None:
                return []
            # Without parameters in the simple protocol, in which VACUUM has to come.
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    def close(self) -> None:
        """Release the connection; a later use opens it again."""
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        # Not every owner has a `close` of its own: a registry is opened for one question and forgotten.
        self.close()

    def _connected(self, *, make: bool) -> psycopg.Connection | None:
        connection = self._connection
        if connection is not None and _is_stale(connection):
            self._drop()
            connection = None
        if connection is None:
            connection = self._connect()
        if not self._ready and not self._prepare(connection, make=make):
            return None
        return connection

    def _connect(self) -> psycopg.Connection:
        try:
            connection = psycopg.connect(self._conninfo, autocommit=True)
        except psycopg.OperationalError as error:
            raise self._fault(
                f"The {self._schema.store} {self.url} cannot be reached ({_one_line(error)}): check that the server "
                f"runs, and that host, port, user and database in `{self._schema.key}` are right. The password comes "
                "from the variable that the URL names, from PGPASSWORD or from ~/.pgpass."
            ) from None
        self._connection, self._ready = connection, False
        connection.execute(_SESSION, (f"{round(self._busy_timeout_s * 1000)}ms",))
        return connection

    def _prepare(self, connection: psycopg.Connection, *, make: bool) -> bool:
        """Whether the tables can be used now."""
        version, newest = self._schema.version(connection, self.url), len(self._schema.migrations)
        if version == 0 and self.generation > 0 and self._when_gone == "refuse":
            raise self._fault(
                f"The {self._schema.store} {self.url} is gone: restore a backup, or restart the gateway to start a "
                "new one."
            )
        if version < newest and make:
            self._schema.migrate(connection, self.url)
        elif version == 0:  # its writer is about to make the tables
            return False
        elif version < newest:
            raise self._fault(
                f"The {self._schema.store} {self.url} has schema {version} and this program reads {newest}: start the "
                "gateway once, it migrates the database."
            )
        self._ready = True
        self.generation += 1
        return True

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except psycopg.Error as error:
            connection = self._connection
            if connection is not None and (connection.closed or isinstance(error, psycopg.InterfaceError)):
                self._drop()
            raise self._fault(self._advice(error)) from error

    def _advice(self, error: psycopg.Error) -> str:
        store, said = f"The {self._schema.store} {self.url}", _one_line(error)
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return (
                f"{store} cannot be used ({said}): let this user own the schema `route_switch`, or make it once as "
                "somebody who may: GRANT CREATE ON DATABASE does that too."
            )
        if isinstance(error, psycopg.errors.LockNotAvailable):
            return f"{store} is held by another session for too long ({said}): try again, or see pg_stat_activity."
        return (
            f"{store} cannot be used now ({said}): `{self._schema.key}` says where it is; the server's log says more."
        )

    def _drop(self) -> None:
        connection, self._connection, self._ready = self._connection, None, False
        if connection is not None:
            connection.close()


def _is_stale(connection: psycopg.Connection) -> bool:
    """Whether the server has hung up, seen without asking it: at rest, all it ever sends is its farewell."""
    if connection.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
