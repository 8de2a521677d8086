"""The schema of a store that is a folder of files: which one it has, and how an older one gets the newest."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock

from rs_gateway.domain.errors import SchemaTooNewError, StoreError

MARK_FILE = "schema.json"
Migration: TypeAlias = Callable[[Path], None]
"""Changes the files under a root. Killed in between, it is called again, so it goes on from where it finds them."""


@dataclass(frozen=True, slots=True)
class FileSchema:
    """What makes a store of files.

    Attributes:
        store: what it is called, such as `prompt registry`; key: where the configuration names its folder.
        migrations: forward only: entry n takes a store from schema n + 1 to n + 2. Never edit one that was released.
    """

    store: str
    key: str
    migrations: tuple[Migration, ...] = ()

    @property
    def newest(self) -> int:
        """The schema that this program writes."""
        return 1 + len(self.migrations)

    def version(self, root: Path) -> int:
        """The schema of the folder. Files of the first one say nothing. Raises SchemaTooNewError, StoreError."""
        try:
            version = json.loads((root / MARK_FILE).read_bytes())["schema"]
        except (FileNotFoundError, NotADirectoryError):
            return 1
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{root / MARK_FILE} cannot be read ({error}): restore it from a backup.") from error
        if not isinstance(version, int) or version < 1:
            raise StoreError(f"{root / MARK_FILE} names schema {version!r}: restore it from a backup.")
        if version > self.newest:
            raise SchemaTooNewError(
                f"The {self.store} {root} has schema {version}, written by a newer program; this one knows up to "
                f"{self.newest}: upgrade route-switch, or point `{self.key}` at another folder."
            )
        return version

    def migrate(self, root: Path) -> None:
        """Bring the folder to the newest schema; nothing is written where it has it. Raises as `version`, OSError."""
        if self.version(root) == self.newest:
            return
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".schema.lock"):
            # Read again under the lock: another process may have migrated in the meantime.
            for number in range(self.version(root), self.newest):
                self.migrations[number - 1](root)
                self._mark(root, number + 1)

    def migrate_to_read(self, root: Path) -> None:
        """The same for whoever only reads: a folder that is not there stays so. Raises as `version`, StoreError."""
        if not root.exists():
            return
        try:
            self.migrate(root)
        except OSError as error:
            raise StoreError(
                f"The {self.store} {root} has schema {self.version(root)} and this program reads {self.newest}, but "
                f"{root} cannot be written ({error.strerror or error}): read it once where it may be written, and it "
                "is brought there."
            ) from error

    def _mark(self, root: Path, version: int) -> None:
        aside = root / f".{MARK_FILE}.tmp"
        with aside.open("w") as file:
            json.dump({"store": self.store, "schema": version}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(root / MARK_FILE)
