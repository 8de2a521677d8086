"""The tables of a SQLite access store, how an older file gets them, and keys <-> rows."""

import json
from typing import Any, TypeAlias

from rs_gateway.adapters.sqlite_schema import Schema
from rs_gateway.domain.access import BUDGET_PERIODS, BudgetPeriod, ClientKey, KeyLimits
from rs_gateway.domain.access_store import KeyRecord, KeyUsage
from rs_gateway.domain.traces import StoreMode

Row: TypeAlias = tuple[Any, ...]

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

KEY_COLUMNS = (
    *("key_id", "name", "created_at", "created_by", "templates", "models", "admin"),
    *("requests_per_minute", "tokens_per_minute", "concurrency", "budget_usd", "budget_period", "allow_unpriced"),
    *("store", "expires_at", "revoked_at"),
)
_USAGE_COLUMNS = ("requests", "tokens", "cost_usd", "unpriced_requests")
_RECORD_COLUMNS = (
    *(f"keys.{name}" for name in (*KEY_COLUMNS, "secret_hash", "requests_full_at", "tokens_full_at")),
    *(f"usage_{period}.{name}" for period in BUDGET_PERIODS for name in _USAGE_COLUMNS),
)
_JOINS = " ".join(
    f"LEFT JOIN usage AS usage_{period} ON usage_{period}.key_id = keys.key_id AND usage_{period}.period = ?"
    for period in BUDGET_PERIODS
)
SELECT_RECORDS = (
    f"SELECT {', '.join(_RECORD_COLUMNS)} FROM keys {_JOINS} "  # noqa: S608 our names
    "WHERE keys.revision > ? ORDER BY keys.seq"
)
"""Parameters: the name of the current period for each of BUDGET_PERIODS, then the revision that is known."""
SELECT_KEY = f"SELECT {', '.join(KEY_COLUMNS)} FROM keys WHERE key_id = ?"  # noqa: S608 our names

ACCESS_SCHEMA = Schema("access store", "stores.access", MIGRATIONS)


def row_of(key: ClientKey) -> Row:
    """A key as the values of KEY_COLUMNS."""
    limits = key.limits
    return (
        *(key.key_id, key.name, key.created_at, key.created_by, _encoded(key.templates), _encoded(key.models)),
        *(int(key.admin), limits.requests_per_minute, limits.tokens_per_minute, limits.concurrency),
        *(limits.budget_usd, limits.budget_period, int(limits.allow_unpriced)),
        *(None if key.store is None else key.store.value, key.expires_at, key.revoked_at),
    )


def key_of(row: Row) -> ClientKey:
    """A key from the values of KEY_COLUMNS. Raises ValueError: a person edited the file."""
    key_id, name, created_at, created_by, templates, models, admin, *limits, store, expires_at, revoked_at = row
    requests_per_minute, tokens_per_minute, concurrency, budget_usd, budget_period, allow_unpriced = limits
    if budget_period not in BUDGET_PERIODS:
        raise ValueError(f"key {key_id!r} has the budget period {budget_period!r}")
    return ClientKey(
        key_id=key_id,
        name=name,
        created_at=created_at,
        created_by=created_by,
        templates=_decoded(templates),
        models=_decoded(models),
        admin=bool(admin),
        limits=KeyLimits(
            requests_per_minute, tokens_per_minute, concurrency, budget_usd, budget_period, bool(allow_unpriced)
        ),
        store=None if store is None else StoreMode(store),
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


def record_of(row: Row) -> KeyRecord:
    """A row of SELECT_RECORDS. Raises ValueError: a person edited the file."""
    n = len(KEY_COLUMNS)
    secret_hash, requests_full_at_s, tokens_full_at_s = row[n : n + 3]
    width = len(_USAGE_COLUMNS)
    columns = [row[n + 3 + width * i : n + 3 + width * (i + 1)] for i in range(len(BUDGET_PERIODS))]
    usage: dict[BudgetPeriod, KeyUsage] = {
        period: KeyUsage(*values)
        for period, values in zip(BUDGET_PERIODS, columns, strict=True)
        if values[0] is not None
    }
    return KeyRecord(key_of(row[:n]), secret_hash, usage, requests_full_at_s, tokens_full_at_s)


def _encoded(names: frozenset[str] | None) -> str | None:
    return None if names is None else json.dumps(sorted(names))


def _decoded(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(json.loads(text))
