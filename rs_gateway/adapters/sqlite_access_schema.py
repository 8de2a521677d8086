"""The tables of a SQLite access store, how an older file gets them, and how they are read."""

from rs_gateway.adapters.access_rows import KEY_COLUMNS, RECORD_COLUMNS
from rs_gateway.adapters.sqlite_schema import Schema
from rs_gateway.domain.access import BUDGET_PERIODS

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Keys are never deleted: a store that has had one stays closed, and traces go on naming them.
        """CREATE TABLE keys (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            key_id TEXT NOT NULL UNIQUE,
            secret_hash BLOB NOT NULL UNIQUE,
            name TEXT NOT NULL,
            created_at REAL NOT NULL,
            created_by TEXT NOT NULL,
            templates TEXT,
            models TEXT,
            admin INTEGER NOT NULL,
            requests_per_minute INTEGER,
            tokens_per_minute INTEGER,
            concurrency INTEGER,
            budget_usd REAL,
            budget_period TEXT NOT NULL,
            allow_unpriced INTEGER NOT NULL,
            store TEXT,
            expires_at REAL,
            revoked_at REAL,
            requests_full_at REAL NOT NULL DEFAULT 0,
            tokens_full_at REAL NOT NULL DEFAULT 0,
            revision INTEGER NOT NULL
        )""",
        "CREATE INDEX keys_by_revision ON keys (revision)",
        """CREATE TABLE usage (
            key_id TEXT NOT NULL,
            period TEXT NOT NULL,
            requests INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            unpriced_requests INTEGER NOT NULL,
            PRIMARY KEY (key_id, period)
        ) WITHOUT ROWID""",
        "CREATE TABLE workers (worker_id TEXT PRIMARY KEY, batch INTEGER NOT NULL, seen_at REAL NOT NULL)",
        """CREATE TABLE in_flight (
            worker_id TEXT NOT NULL,
            key_id TEXT NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (worker_id, key_id)
        ) WITHOUT ROWID""",
        # One row: counts every change of a key or its usage, so that workers read only what is new to them.
        "CREATE TABLE changes (revision INTEGER NOT NULL)",
        "INSERT INTO changes VALUES (0)",
    ),
)
"""Forward only: entry n takes a store from schema n to n + 1. Never edit one that was released; append."""

_JOINS = " ".join(
    f"LEFT JOIN usage AS usage_{period} ON usage_{period}.key_id = keys.key_id AND usage_{period}.period = ?"
    for period in BUDGET_PERIODS
)
SELECT_RECORDS = (
    f"SELECT {', '.join(RECORD_COLUMNS)} FROM keys {_JOINS} "  # noqa: S608 our names
    "WHERE keys.revision > ? ORDER BY keys.seq"
)
"""Parameters: the name of the current period for each of BUDGET_PERIODS, then the revision that is known."""
SELECT_KEY = f"SELECT {', '.join(KEY_COLUMNS)} FROM keys WHERE key_id = ?"  # noqa: S608 our names

ACCESS_SCHEMA = Schema("access store", "stores.access", MIGRATIONS)
