"""Client keys and their accounts as rows: which columns they have, in which order, and what a cell holds."""

import json
from typing import Any, TypeAlias

from rs_gateway.domain.access import BUDGET_PERIODS, BudgetPeriod, ClientKey, KeyLimits
from rs_gateway.domain.access_store import KeyRecord, KeyUsage
from rs_gateway.domain.traces import StoreMode

Row: TypeAlias = tuple[Any, ...]

KEY_COLUMNS = (
    *("key_id", "name", "created_at", "created_by", "templates", "models", "admin"),
    *("requests_per_minute", "tokens_per_minute", "concurrency", "budget_usd", "budget_period", "allow_unpriced"),
    *("store", "expires_at", "revoked_at"),
)
_USAGE_COLUMNS = ("requests", "tokens", "cost_usd", "unpriced_requests")
RECORD_COLUMNS = (
    *(f"keys.{name}" for name in (*KEY_COLUMNS, "secret_hash", "requests_full_at", "tokens_full_at")),
    *(f"usage_{period}.{name}" for period in BUDGET_PERIODS for name in _USAGE_COLUMNS),
)
"""What `record_of` reads: a key, and what it used in each of BUDGET_PERIODS, from tables or aliases of these names."""


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
    """A key's record from the values of RECORD_COLUMNS. Raises ValueError: a person edited the file."""
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
