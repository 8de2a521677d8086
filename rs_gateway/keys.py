"""What the command line and the admin API do with client keys."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from rs_gateway.domain.access import (
    BUDGET_PERIODS,
    NO_LIMITS,
    ClientKey,
    KeyLimits,
    KeyNotFoundError,
    check_key,
    hash_secret,
)
from rs_gateway.domain.access_store import AccessStore, KeyRecord, KeyUsage
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import InvalidRequestError
from rs_gateway.domain.traces import StoreMode


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key may do; see ClientKey."""

    name: str
    templates: frozenset[str] | None = None
    models: frozenset[str] | None = None
    admin: bool = False
    limits: KeyLimits = NO_LIMITS
    store: StoreMode | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `secret` is the only copy: what clients send, and what is stored nowhere."""

    key: ClientKey
    secret: str = field(repr=False)


def issue_key(store: AccessStore, grant: Grant, *, by: str, now_s: float) -> IssuedKey:
    """Make a key: `rs-`, its public id, and 256 random bits. Raises InvalidRequestError, StoreError."""
    key = ClientKey(
        key_id=secrets.token_hex(5),
        name=grant.name.strip(),
        created_at=now_s,
        created_by=by,
        templates=grant.templates,
        models=grant.models,
        admin=grant.admin,
        limits=grant.limits,
        store=grant.store,
        expires_at=grant.expires_at,
    )
    secret = f"rs-{key.key_id}-{secrets.token_urlsafe(32)}"
    store.create(check_key(key), secret_hash=hash_secret(secret.encode("ascii")))
    return IssuedKey(key, secret)


def update_key(store: AccessStore, key_id: str, change: Callable[[ClientKey], ClientKey]) -> ClientKey:
    """Change what a key may do. Raises KeyNotFoundError, StoreError, InvalidRequestError: also for a revoked key."""

    def checked(key: ClientKey) -> ClientKey:
        if key.revoked_at is not None:
            raise InvalidRequestError(f"The client key {key_id!r} is revoked for good: make a new one.", param="key_id")
        return check_key(change(key))

    return store.update(key_id, checked)


def revoke_key(store: AccessStore, key_id: str, *, now_s: float) -> ClientKey:
    """End a key for good; a second time does nothing. Raises KeyNotFoundError, StoreError."""
    return store.update(key_id, lambda key: key if key.revoked_at is not None else replace(key, revoked_at=now_s))


def find_key(records: Sequence[KeyRecord], key_id: str) -> KeyRecord:
    """The record of one key. Raises KeyNotFoundError."""
    for record in records:
        if record.key.key_id == key_id:
            return record
    raise KeyNotFoundError(key_id)


def key_facts(key: ClientKey, *, now_s: float) -> JsonObject:
    """A key as JSON, without its secret. Times are ISO 8601, UTC; null scopes are everything, null limits none."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "state": "revoked" if key.revoked_at is not None else "active" if key.is_active(now_s) else "expired",
        "templates": None if key.templates is None else sorted(key.templates),
        "models": None if key.models is None else sorted(key.models),
        "admin": key.admin,
        "limits": asdict(key.limits),
        "store": None if key.store is None else key.store.value,
        "created_at": _iso(key.created_at),
        "created_by": key.created_by,
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
    }


def record_facts(record: KeyRecord, *, now_s: float) -> JsonObject:
    """`key_facts`, what its budget counts as spent, and what it used today, this month and altogether."""
    usage = {period: record.usage.get(period, KeyUsage()) for period in BUDGET_PERIODS}
    return {
        **key_facts(record.key, now_s=now_s),
        "spent_usd": usage[record.key.limits.budget_period].cost_usd,
        "usage": {period: asdict(used) for period, used in usage.items()},
    }


def _iso(at_s: float | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
