"""Model answers, paid for once: a content-addressed cache on disk, and budgets that are counted in the same file."""

import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rs_gateway.domain.errors import RouteSwitchError, SchemaTooNewError, StoreError

_SCHEMA = 1
_UNLIMITED = 2**62


class BudgetExhaustedError(RouteSwitchError):
    """The next call would exceed what this piece of work may cost; it was not made."""

    code = "budget_exhausted"

    def __init__(self, account: str, max_calls: int) -> None:
        self.account, self.max_calls = account, max_calls
        super().__init__(
            f"{account}: all {max_calls} model calls of the budget are spent. Raise `mipro_v2.max_calls` to go on: "
            "answers already paid for are kept and cost nothing again."
        )


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model said; `cached` when nobody was asked. Token counts are None where the provider gave none."""

    text: str
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Spending:
    """What was paid for: calls sent to the provider (each retry is one) and the tokens of their answers."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class AnswerCache:
    """Answers and spending in one SQLite file. Safe with several threads and processes; what it returns is committed.

    Commits survive a killed process; a power cut may lose the last ones.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        with self._statements():
            self._open()

    def get(self, key: str) -> ModelAnswer | None:
        """The stored answer, marked as cached."""
        with self._statements() as connection:
            row = connection.execute(
                "SELECT text, finish_reason, input_tokens, output_tokens FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else ModelAnswer(*row, cached=True)

    def put(self, key: str, answer: ModelAnswer, *, account: str | None = None) -> None:
        """Store an answer and book its tokens. The first answer to a key stays."""
        with self._statements() as connection, self._transaction():
            connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)",
                (key, answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens),
            )
            connection.execute(
                "UPDATE spending SET input_tokens = input_tokens + ?, output_tokens = output_tokens + ?"
                " WHERE account = ?",
                (answer.input_tokens or 0, answer.output_tokens or 0, account),
            )

    def charge(self, account: str, *, max_calls: int | None) -> bool:
        """Book one call, unless that would be one too many. Committed before the call is made."""
        limit = _UNLIMITED if max_calls is None else max_calls
        if limit < 1:
            return False
        with self._statements() as connection:
            row = connection.execute(
                "INSERT INTO spending VALUES (?, 1, 0, 0)"
                " ON CONFLICT (account) DO UPDATE SET calls = calls + 1 WHERE calls < ? RETURNING calls",
                (account, limit),
            ).fetchone()
        return row is not None

    def spending(self, account: str) -> Spending:
        """What was booked on an account, in all processes and since ever."""
        with self._statements() as connection:
            row = connection.execute(
                "SELECT calls, input_tokens, output_tokens FROM spending WHERE account = ?", (account,)
            ).fetchone()
        return Spending() if row is None else Spending(*row)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _open(self) -> None:
        # Switching to WAL does not wait for the busy timeout when another process switches at the same moment.
        for _ in range(100):
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                time.sleep(0.05)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA:
                raise SchemaTooNewError(
                    f"The answer cache has schema {version}; this program knows {_SCHEMA}: update it."
                )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT,"
                " input_tokens INTEGER, output_tokens INTEGER) WITHOUT ROWID"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS spending (account TEXT PRIMARY KEY, calls INTEGER NOT NULL,"
                " input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL)"
            )
            self._connection.execute(f"PRAGMA user_version = {_SCHEMA}")

    @contextmanager
    def _statements(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StoreError(f"The answer cache cannot be used: {error}.") from error

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class CallBudget:
    """What one piece of work may spend. Kept in the cache's file, so that a crash does not reset it.

    Attributes:
        account: names the piece of work, for example a study id.
        max_calls: None is no limit; spending is counted all the same.
    """

    cache: AnswerCache
    account: str
    max_calls: int | None = None

    def charge(self) -> None:
        """Book the next call. Raises BudgetExhaustedError."""
        if not self.cache.charge(self.account, max_calls=self.max_calls):
            raise BudgetExhaustedError(self.account, self.max_calls or 0)

    @property
    def spent(self) -> Spending:
        """What was spent so far, crashed runs included."""
        return self.cache.spending(self.account)

    @property
    def calls_left(self) -> int | None:
        """Calls that may still be made; None is no limit."""
        return None if self.max_calls is None else max(0, self.max_calls - self.spent.calls)
