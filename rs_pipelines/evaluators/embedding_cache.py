"""Sentence embeddings on disk, so that no text is embedded twice by the same model, in a run or across runs."""

import hashlib
import sqlite3
from collections.abc import Collection, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rs_gateway.adapters.sqlite_schema import Schema
from rs_gateway.domain.errors import StoreError

Vector = npt.NDArray[np.float32]
"""A unit vector, shape (n_dimensions,)."""
EMBEDDING_SCHEMA = Schema(
    "embedding cache",
    None,
    (
        (
            # Files of the first days were made without a number.
            "CREATE TABLE IF NOT EXISTS embeddings (model TEXT NOT NULL, text_hash BLOB NOT NULL,"
            " vector BLOB NOT NULL, PRIMARY KEY (model, text_hash)) WITHOUT ROWID",
        ),
    ),
)
"""Its table, and how an older file gets it. Forward only: append, never edit."""
_AT_ONCE = 500
"""Values in one statement; SQLite allows no more than 999 everywhere."""


@dataclass(frozen=True, slots=True)
class EmbeddingCache:
    """One SQLite file for all models. Safe with several threads and processes; deleting it costs only time."""

    path: Path

    def get(self, model: str, texts: Collection[str]) -> dict[str, Vector]:
        """The vectors that are there."""
        by_hash = {_hash(text): text for text in texts}
        hashes = list(by_hash)
        found: dict[str, Vector] = {}
        with self._connected() as connection:
            for start in range(0, len(hashes), _AT_ONCE):
                some = hashes[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT text_hash, vector FROM embeddings WHERE model = ? AND text_hash IN ({marks})",  # noqa: S608
                    (model, *some),
                )
                found.update((by_hash[text_hash], np.frombuffer(vector, np.float32)) for text_hash, vector in rows)
        return found

    def put(self, model: str, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors. The first one of a text stays."""
        with self._connected() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)",
                [(model, _hash(text), vector.astype(np.float32).tobytes()) for text, vector in vectors.items()],
            )

    def forget(self, texts: Collection[str]) -> int:
        """Remove the vectors of these texts for good, of all models; how many."""
        if not self.path.exists():
            return 0
        with self._connected() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            hashes = [(_hash(text),) for text in texts]
            removed = connection.executemany("DELETE FROM embeddings WHERE text_hash = ?", hashes).rowcount
        with closing(sqlite3.connect(self.path, timeout=30)) as connection:
            connection.execute("VACUUM")
        return removed

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        """One transaction on a connection of its own: scoring runs on whatever thread is free."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                EMBEDDING_SCHEMA.migrate(connection, self.path)
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(
                f"The embedding cache {self.path} cannot be used ({error}). It can be deleted at any time."
            ) from error


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
