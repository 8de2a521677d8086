"""The answer cache in Postgres, for pipelines on several machines: one budget, and nothing paid for twice."""

from collections.abc import Collection
from typing import Any

from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_schema import PostgresSchema
from rs_gateway.store_urls import password_in, without_password
from rs_pipelines.answers import UNLIMITED, AnswerCache, ModelAnswer
from rs_pipelines.spending import NOTHING, Allowance, Booking, Spending

ANSWER_SCHEMA = PostgresSchema(
    store="answer cache",
    key="stores.answers",
    migrations=(
        (
            """CREATE TABLE route_switch.answers (
                key TEXT PRIMARY KEY,
                text TEXT NOT NULL,
                finish_reason TEXT,
                input_tokens BIGINT,
                output_tokens BIGINT,
                account TEXT,
                stored_at DOUBLE PRECISION NOT NULL DEFAULT EXTRACT(EPOCH FROM now())
            )""",
            "CREATE INDEX answers_stored_at ON route_switch.answers (stored_at)",
            """CREATE TABLE route_switch.spending (
                account TEXT PRIMARY KEY,
                calls BIGINT NOT NULL,
                input_tokens BIGINT NOT NULL,
                output_tokens BIGINT NOT NULL,
                booked_tokens BIGINT NOT NULL,
                usd DOUBLE PRECISION NOT NULL
            )""",
        ),
    ),
)
_GET = b"SELECT text, finish_reason, input_tokens, output_tokens FROM route_switch.answers WHERE key = %s"
_PUT = (
    "INSERT INTO route_switch.answers (key, text, finish_reason, input_tokens, output_tokens, account)"
    " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING"
)
_ACCOUNT_FOR = (
    "UPDATE route_switch.spending SET input_tokens = input_tokens + %s, output_tokens = output_tokens + %s,"
    " booked_tokens = booked_tokens + %s, usd = usd + %s WHERE account = %s"
)
_CHARGE = (
    "INSERT INTO route_switch.spending AS s VALUES (%s, 1, 0, 0, %s, %s) ON CONFLICT (account) DO UPDATE SET"
    " calls = s.calls + 1, booked_tokens = s.booked_tokens + excluded.booked_tokens, usd = s.usd + excluded.usd"
    " WHERE s.calls < %s AND s.booked_tokens + excluded.booked_tokens <= %s AND s.usd + excluded.usd <= %s"
    " RETURNING s.calls"
)
_TAKE_BACK = (
    "UPDATE route_switch.spending SET calls = calls - %s, booked_tokens = booked_tokens - %s, usd = usd - %s"
    " WHERE account = %s"
)
_SPENDING = (
    b"SELECT calls, input_tokens, output_tokens, booked_tokens, usd FROM route_switch.spending WHERE account = %s"
)

_EXPIRE_OLD = "DELETE FROM route_switch.answers WHERE stored_at < %s"
_EXPIRE_OLDEST = """DELETE FROM route_switch.answers USING (
    SELECT key, sum(octet_length(text) + octet_length(key)) OVER (ORDER BY stored_at DESC, key) AS newer
    FROM route_switch.answers
) AS sized WHERE answers.key = sized.key AND newer > %s"""
_TEXTS_BUT_OF = b"SELECT text FROM route_switch.answers WHERE account IS NULL OR account <> ALL (%s)"
_KEEP_ONLY_OF = "DELETE FROM route_switch.answers WHERE account IS NULL OR account <> ALL (%s)"


class PostgresAnswerCache(AnswerCache):
    """The same, in a database. Every write is one transaction."""

    def __init__(self, url: str) -> None:
        """Connects when it is first used. Raises ConfigurationError: the URL is none."""
        # What the file needs is not made: nothing of it is used here.
        place = PostgresPlace(without_password(url), password_in(url))
        self._database = PostgresDatabase(place, ANSWER_SCHEMA, busy_timeout_s=30)

    def get(self, key: str) -> ModelAnswer | None:
        """The stored answer, marked as cached."""
        rows = self._database.rows(_GET, (key,))
        return ModelAnswer(*rows[0], cached=True) if rows else None

    def put(
        self, key: str, answer: ModelAnswer, *, account: str | None = None, booked: Booking = NOTHING, usd: float = 0.0
    ) -> None:
        """Store an answer and account for it. The first answer to a key stays."""
        tokens_in, tokens_out = answer.input_tokens or 0, answer.output_tokens or 0
        counted = answer.input_tokens is not None and answer.output_tokens is not None
        more_tokens = tokens_in + tokens_out - booked.tokens if counted else 0
        more_usd = usd - booked.usd if counted else 0.0
        # The one character that Postgres' texts cannot hold; stores of the gateway put the same in its place.
        text = answer.text.replace("\0", "\ufffd")
        with self._database.writing() as connection:
            connection.execute(
                _PUT, (key, text, answer.finish_reason, answer.input_tokens, answer.output_tokens, account)
            )
            connection.execute(_ACCOUNT_FOR, (tokens_in, tokens_out, more_tokens, more_usd, account))

    def charge(self, account: str, allowance: Allowance, booking: Booking = NOTHING) -> bool:
        """Book one call, unless that would be too much. Committed before the call is made."""
        calls = UNLIMITED if allowance.calls is None else allowance.calls
        tokens = UNLIMITED if allowance.tokens is None else allowance.tokens
        usd = float("inf") if allowance.usd is None else allowance.usd
        if calls < 1 or booking.tokens > tokens or booking.usd > usd:
            return False
        values: tuple[Any, ...] = (account, booking.tokens, booking.usd, calls, tokens, usd)
        with self._database.writing() as connection:
            return connection.execute(_CHARGE, values).fetchone() is not None

    def refund(self, account: str, booking: Booking) -> None:
        """Take back what a call was booked with that nobody bills; the call itself stays counted."""
        with self._database.writing() as connection:
            connection.execute(_TAKE_BACK, (0, booking.tokens, booking.usd, account))

    def cancel(self, account: str, booking: Booking) -> None:
        """Take back a call that was booked and not made."""
        with self._database.writing() as connection:
            connection.execute(_TAKE_BACK, (1, booking.tokens, booking.usd, account))

    def spending(self, account: str) -> Spending:
        """What was booked on an account, in all processes and since ever."""
        rows = self._database.rows(_SPENDING, (account,))
        return Spending(*rows[0]) if rows else Spending()

    def expire(self, *, before_s: float | None = None, max_bytes: float | None = None) -> int:
        """Remove answers that were paid for before an instant, and the oldest ones of what is too large; how many.

        Args:
            max_bytes: of keys and texts.
        """
        removed = 0
        with self._database.writing() as connection:
            if before_s is not None:
                removed += connection.execute(_EXPIRE_OLD, (before_s,)).rowcount
            if max_bytes is not None:
                removed += connection.execute(_EXPIRE_OLDEST, (max_bytes,)).rowcount
        return removed

    def texts_but_of(self, accounts: Collection[str]) -> list[str]:
        """Answers that nobody of these paid for, those of unknown payers included."""
        return [text for (text,) in self._database.rows(_TEXTS_BUT_OF, (list(accounts),))]

    def keep_only_of(self, accounts: Collection[str]) -> int:
        """Remove every answer that nobody of these paid for; how many. What was spent stays counted.

        Postgres clears the rows out of its files at the next vacuum.
        """
        with self._database.writing() as connection:
            return connection.execute(_KEEP_ONLY_OF, (list(accounts),)).rowcount

    def close(self) -> None:
        """Release the connection."""
        self._database.close()
