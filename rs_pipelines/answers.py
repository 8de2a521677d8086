"""Model answers, paid for once: a content-addressed cache on disk, which keeps the accounts of who paid as well."""

import math
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rs_gateway.adapters.sqlite_read_only import open_read_only
from rs_gateway.adapters.sqlite_schema import Schema
from rs_gateway.domain.errors import StoreError
from rs_pipelines.spending import NOTHING, Allowance, Booking, Spending

ANSWER_SCHEMA = Schema(
    "answer cache",
    None,
    (
        (
            # Files of the first days were made without a number.
            "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT,"
            " input_tokens INTEGER, output_tokens INTEGER) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS spending (account TEXT PRIMARY KEY, calls INTEGER NOT NULL,"
            " input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL)",
        ),
        (
            # Money and tokens are budgets since then.
            "ALTER TABLE spending ADD COLUMN booked_tokens INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE spending ADD COLUMN usd REAL NOT NULL DEFAULT 0",
            "UPDATE spending SET booked_tokens = input_tokens + output_tokens",
        ),
        # Who paid for an answer tells whose rows it is about; and answers may expire.
        (
            "ALTER TABLE answers ADD COLUMN account TEXT",
            "ALTER TABLE answers ADD COLUMN stored_at REAL NOT NULL DEFAULT 0",
            "UPDATE answers SET stored_at = strftime('%s', 'now')",
        ),
    ),
)
"""The tables of an answer cache, and how an older file gets them. Forward only: append, never edit."""
UNLIMITED = 2**62
_DELETE_OLDEST = "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY stored_at LIMIT ?)"


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model said; `cached` when nobody was asked. Token counts are None where the provider gave none."""

    text: str
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached: bool = False


class AnswerCache:
    """Answers and spending in one SQLite file. Safe with several threads and processes; what it returns is committed.

    Commits survive a killed process; a power cut may lose the last ones.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, for reading alone where its directory cannot be written. Raises StoreError."""
        self._path = path
        self._lock = threading.Lock()
        if path.exists() and not os.access(path.parent, os.W_OK):
            self._connection = self._opened_to_read()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StoreError(f"The answer cache {path} cannot be used: {error}.") from error
        with self._statements():
            self._open()

    def get(self, key: str) -> ModelAnswer | None:
        """The stored answer, marked as cached."""
        with self._statements() as connection:
            row = connection.execute(
                "SELECT text, finish_reason, input_tokens, output_tokens FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else ModelAnswer(*row, cached=True)

    def put(
        self, key: str, answer: ModelAnswer, *, account: str | None = None, booked: Booking = NOTHING, usd: float = 0.0
    ) -> None:
        """Store an answer and account for it. The first answer to a key stays.

        Args:
            booked: what its call was booked with; stays where the provider did not count tokens.
            usd: what it really cost.
        """
        tokens_in, tokens_out = answer.input_tokens or 0, answer.output_tokens or 0
        counted = answer.input_tokens is not None and answer.output_tokens is not None
        with self._statements() as connection, self._transaction():
            connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(key, answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens),
                    *(account, time.time()),
                ),
            )
            connection.execute(
                "UPDATE spending SET input_tokens = input_tokens + ?, output_tokens = output_tokens + ?,"
                " booked_tokens = booked_tokens + ?, usd = usd + ? WHERE account = ?",
                (
                    tokens_in,
                    tokens_out,
                    tokens_in + tokens_out - booked.tokens if counted else 0,
                    usd - booked.usd if counted else 0.0,
                    account,
                ),
            )

    def charge(self, account: str, allowance: Allowance, booking: Booking = NOTHING) -> bool:
        """Book one call, unless that would be too much. Committed before the call is made."""
        calls = UNLIMITED if allowance.calls is None else allowance.calls
        tokens = UNLIMITED if allowance.tokens is None else allowance.tokens
        usd = float("inf") if allowance.usd is None else allowance.usd
        if calls < 1 or booking.tokens > tokens or booking.usd > usd:
            return False
        with self._statements() as connection:
            row = connection.execute(
                "INSERT INTO spending VALUES (?, 1, 0, 0, ?, ?)"
                " ON CONFLICT (account) DO UPDATE SET calls = calls + 1, booked_tokens = booked_tokens + ?,"
                " usd = usd + ? WHERE calls < ? AND booked_tokens + ? <= ? AND usd + ? <= ? RETURNING calls",
                (
                    *(account, booking.tokens, booking.usd, booking.tokens, booking.usd),
                    *(calls, booking.tokens, tokens, booking.usd, usd),
                ),
            ).fetchone()
        return row is not None

    def refund(self, account: str, booking: Booking) -> None:
        """Take back what a call was booked with that nobody bills; the call itself stays counted."""
        with self._statements() as connection:
            connection.execute(
                "UPDATE spending SET booked_tokens = booked_tokens - ?, usd = usd - ? WHERE account = ?",
                (booking.tokens, booking.usd, account),
            )

    def cancel(self, account: str, booking: Booking) -> None:
        """Take back a call that was booked and not made."""
        with self._statements() as connection:
            connection.execute(
                "UPDATE spending SET calls = calls - 1, booked_tokens = booked_tokens - ?, usd = usd - ?"
                " WHERE account = ?",
                (booking.tokens, booking.usd, account),
            )

    def spending(self, account: str) -> Spending:
        """What was booked on an account, in all processes and since ever."""
        with self._statements() as connection:
            row = connection.execute(
                "SELECT calls, input_tokens, output_tokens, booked_tokens, usd FROM spending WHERE account = ?",
                (account,),
            ).fetchone()
        return Spending() if row is None else Spending(*row)

    def expire(self, *, before_s: float | None = None, max_bytes: float | None = None) -> int:
        """Remove answers that were paid for before an instant, and the oldest ones of what is too large; how many.

        Args:
            before_s: seconds since the epoch; None: none is too old.
            max_bytes: of the file, without what is free in it; None: it is never too large.
        """
        removed = 0
        with self._statements() as connection:
            if before_s is not None:
                with self._transaction():
                    removed += connection.execute("DELETE FROM answers WHERE stored_at < ?", (before_s,)).rowcount
            while max_bytes is not None and (used := self._used_bytes(connection)) > max_bytes:
                with self._transaction():
                    (n,) = connection.execute("SELECT count(*) FROM answers").fetchone()
                    due = math.ceil(n * (1 - max_bytes / used))
                    connection.execute(_DELETE_OLDEST, (due,))
                removed += due
                if n == due:
                    break
            if removed:
                connection.execute("VACUUM")
        return removed

    def _used_bytes(self, connection: sqlite3.Connection) -> int:
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * page_bytes

    def texts_but_of(self, accounts: Collection[str]) -> list[str]:
        """Answers that nobody of these paid for, those of unknown payers included."""
        with self._statements() as connection:
            rows = connection.execute("SELECT account, text FROM answers").fetchall()
        return [text for account, text in rows if account is None or account not in accounts]

    def keep_only_of(self, accounts: Collection[str]) -> int:
        """Remove for good every answer that nobody of these paid for; how many. What was spent stays counted."""
        with self._statements() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("CREATE TEMP TABLE kept (account TEXT PRIMARY KEY)")
            with self._transaction():
                connection.executemany("INSERT INTO temp.kept VALUES (?)", [(account,) for account in accounts])
                removed = connection.execute(
                    "DELETE FROM answers WHERE account IS NULL OR account NOT IN (SELECT account FROM temp.kept)"
                ).rowcount
            connection.execute("DROP TABLE temp.kept")
            # Pages that grew into two still have copies of the rows that moved.
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _opened_to_read(self) -> sqlite3.Connection:
        try:
            connection, _ = open_read_only(self._path, timeout_s=30, check_same_thread=False)
            version = ANSWER_SCHEMA.version(connection, self._path)
        except sqlite3.Error as error:
            raise StoreError(f"The answer cache {self._path} cannot be read: {error}.") from error
        if version < len(ANSWER_SCHEMA.migrations):
            connection.close()
            raise StoreError(
                f"The answer cache {self._path} is of an older program, and {self._path.parent} cannot be written: "
                "open it once where it may be, as with `route-switch optimize`."
            )
        return connection

    def _open(self) -> None:
        # Switching to WAL does not wait for the busy timeout when another process switches at the same moment.
        for _ in range(100):
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                time.sleep(0.05)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        ANSWER_SCHEMA.migrate(self._connection, self._path)

    @contextmanager
    def _statements(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StoreError(f"The answer cache {self._path} cannot be used: {error}.") from error

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
