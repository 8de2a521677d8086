"""The schema of a store in Postgres: which one a database has, and how an older one gets the newest.

All tables lie in the Postgres schema `route_switch`, so that a database may hold other things as well. Each store has a
row of its own in `schema_versions`: the three may share a database, or not.
"""

from dataclasses import dataclass

import psycopg
from psycopg import errors

from rs_gateway.domain.errors import SchemaTooNewError

_SELECT_VERSION = "SELECT version FROM route_switch.schema_versions WHERE store = %s"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('route_switch.schema_versions', 0))"
_WAIT_FOR_OTHERS = "SET LOCAL lock_timeout = '60s'"
# `CREATE SCHEMA IF NOT EXISTS` asks for the right to make it even where it is there.
_SCHEMA_IS_MISSING = "SELECT to_regnamespace('route_switch') IS NULL"
_MAKE_SCHEMA = "CREATE SCHEMA route_switch"
_MAKE_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS route_switch.schema_versions (store TEXT PRIMARY KEY, version INTEGER NOT NULL)"
)
_SET_VERSION = (
    "INSERT INTO route_switch.schema_versions (store, version) VALUES (%s, %s) "
    "ON CONFLICT (store) DO UPDATE SET version = excluded.version"
)


@dataclass(frozen=True, slots=True)
class PostgresSchema:
    """What makes a store.

    Attributes:
        store: what it is called, such as `trace store`; key: where the configuration names its database.
        migrations: forward only: entry n takes a store from schema n to n + 1. Never edit one that was released.
    """

    store: str
    key: str
    migrations: tuple[tuple[str, ...], ...]

    def version(self, connection: psycopg.Connection, url: str) -> int:
        """The schema of the store at `url`, 0 when it has no tables yet. Raises SchemaTooNewError, psycopg.Error."""
        try:
            with connection.transaction():
                found = connection.execute(_SELECT_VERSION, (self.store,)).fetchone()
        except errors.UndefinedTable:
            return 0
        version = 0 if found is None else found[0]
        if version > len(self.migrations):
            raise SchemaTooNewError(
                f"The {self.store} {url} has schema {version}, written by a newer program; this one knows up to "
                f"{len(self.migrations)}: upgrade route-switch, or point `{self.key}` at another database."
            )
        return version

    def migrate(self, connection: psycopg.Connection, url: str) -> None:
        """Bring the store to the newest schema, in one transaction. Raises SchemaTooNewError, psycopg.Error."""
        if self.version(connection, url) == len(self.migrations):
            return
        with connection.transaction():
            connection.execute(_WAIT_FOR_OTHERS)
            connection.execute(_LOCK)
            if connection.execute(_SCHEMA_IS_MISSING).fetchone() == (True,):
                connection.execute(_MAKE_SCHEMA)
            connection.execute(_MAKE_VERSIONS)
            # Read again under the lock: another process may have migrated in the meantime.
            version = self.version(connection, url)
            for statement in (statement for migration in self.migrations[version:] for statement in migration):
                connection.execute(statement.encode())
            connection.execute(_SET_VERSION, (self.store, len(self.migrations)))
