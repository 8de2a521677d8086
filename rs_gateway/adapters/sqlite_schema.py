"""The schema of a SQLite store: which one a file has, and how an older one gets the newest."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from rs_gateway.domain.errors import SchemaTooNewError


@dataclass(frozen=True, slots=True)
class Schema:
    """What makes a store.

    Attributes:
        store: what it is called, such as `trace store`.
        key: where the configuration names its file; None: nowhere, and the store can be made anew.
        migrations: forward only: entry n takes a store from schema n to n + 1. Never edit one that was released.
    """

    store: str
    key: str | None
    migrations: tuple[tuple[str, ...], ...]

    def version(self, connection: sqlite3.Connection, path: Path) -> int:
        """The schema of the file at `path`, 0 when it has no tables yet. Raises SchemaTooNewError, sqlite3.Error."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(self.migrations):
            otherwise = "move the file away" if self.key is None else f"point `{self.key}` at another file"
            raise SchemaTooNewError(
                f"The {self.store} {path} has schema {version}, written by a newer program; this one knows up to "
                f"{len(self.migrations)}: upgrade route-switch, or {otherwise}."
            )
        return version

    def migrate(self, connection: sqlite3.Connection, path: Path) -> None:
        """Bring the file to the newest schema, in one transaction. Raises SchemaTooNewError, sqlite3.Error."""
        if self.version(connection, path) == len(self.migrations):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read again under the lock: another process may have migrated in the meantime.
            version = self.version(connection, path)
            for statement in (statement for migration in self.migrations[version:] for statement in migration):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(self.migrations)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
