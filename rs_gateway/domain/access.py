"""Client keys: who may ask for what, and how much."""

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, TypeAlias

from rs_gateway.domain.errors import InvalidRequestError, RouteSwitchError, shown
from rs_gateway.domain.traces import StoreMode

BudgetPeriod: TypeAlias = Literal["total", "day", "month"]
"""When a budget starts anew. Days and months are UTC."""
BUDGET_PERIODS: tuple[BudgetPeriod, ...] = ("total", "day", "month")

_MAX_NAME_CHARACTERS = 200
_LAST_MOMENT_S = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""Beyond the year 9999 a time has no date any more."""


class Admission(Protocol):
    """One request that was let in. Ask `check` once its target is known; call `settle` exactly once, at the end."""

    @property
    def key_id(self) -> str | None:
        """The key's public id; None when no key is needed."""
        ...

    @property
    def store(self) -> StoreMode | None:
        """How much the key lets us keep of its requests; None when the key does not say."""
        ...

    def check(self, *, template_id: str | None, model: str) -> None:
        """Raises ForbiddenError: the key's scopes do not cover this template or model."""
        ...

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        """Count what the request used, and free its place."""
        ...


class OpenAdmission:
    """Everybody may do everything: what a gateway without client keys hands out."""

    key_id = None
    store = None

    def check(self, *, template_id: str | None, model: str) -> None:
        """See Admission."""

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        """See Admission."""


OPEN = OpenAdmission()


class KeyNotFoundError(RouteSwitchError):
    """No client key has this id."""

    code = "key_not_found"
    param = "key_id"

    def __init__(self, key_id: str, *, remedy: str = "`route-switch keys list` shows those there are") -> None:
        super().__init__(f"There is no client key {shown(key_id)}: {remedy}.")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may use. None is no limit.

    Attributes:
        concurrency: requests at once; a stream counts until it ends.
        budget_usd: what its requests may cost in one `budget_period`.
        allow_unpriced: whether a key with a budget may ask models whose price is unknown. They add nothing to what it
            has spent, so a budget does not hold them.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budget_usd: float | None = None
    budget_period: BudgetPeriod = "total"
    allow_unpriced: bool = False


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client key, without its secret.

    `templates` alone judges a request for a template, whatever model answers it; `models` judges one for a bare model.

    Attributes:
        key_id: public; it is on traces and part of the key itself.
        templates, models: what it may ask for; None is everything, the empty set is nothing.
        admin: may use the admin API. It says nothing about calls: an admin key with two empty sets makes none.
        store: how much may be kept of its requests at most; None leaves that to others.
        created_at, expires_at, revoked_at: seconds since the epoch.
        created_by: who made it.
    """

    key_id: str
    name: str
    created_at: float
    created_by: str
    templates: frozenset[str] | None = None
    models: frozenset[str] | None = None
    admin: bool = False
    limits: KeyLimits = NO_LIMITS
    store: StoreMode | None = None
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_active(self, now_s: float) -> bool:
        """Whether it lets anybody in at this time."""
        return self.revoked_at is None and (self.expires_at is None or now_s < self.expires_at)

    def allows(self, *, template_id: str | None, model: str) -> bool:
        """Whether its scopes cover this template or, without a template, this model."""
        if template_id is None:
            return self.models is None or model in self.models
        return self.templates is None or template_id in self.templates


def check_key(key: ClientKey) -> ClientKey:
    """The key, when its name and limits can be meant. Raises InvalidRequestError naming the value."""
    if not key.name.strip() or not key.name.isprintable() or len(key.name) > _MAX_NAME_CHARACTERS:
        raise InvalidRequestError(
            f"The key's name must be 1 to {_MAX_NAME_CHARACTERS} printable characters, not {key.name[:50]!r}.",
            param="name",
        )
    limits = key.limits
    for field in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        count: int | None = getattr(limits, field)
        if count is not None and not 1 <= count <= 10**9:
            raise InvalidRequestError(
                f"{field} must be 1 to 1,000,000,000, not {shown(count)}; leave it out for no limit.", param=field
            )
    if limits.budget_usd is not None and not (math.isfinite(limits.budget_usd) and limits.budget_usd >= 0):
        raise InvalidRequestError(f"budget_usd must be 0 or more, not {limits.budget_usd}.", param="budget_usd")
    if limits.budget_period not in BUDGET_PERIODS:
        raise InvalidRequestError(
            f"budget_period must be {', '.join(BUDGET_PERIODS)}, not {limits.budget_period!r}.", param="budget_period"
        )
    for field, names in (("templates", key.templates), ("models", key.models)):
        if names is not None and any(not name or not name.isprintable() for name in names):
            raise InvalidRequestError(f"{field} holds a name that nothing can have: {sorted(names)}.", param=field)
    if key.expires_at is not None and not key.created_at < key.expires_at < _LAST_MOMENT_S:
        raise InvalidRequestError(
            "expires_at must lie after the key's creation and before the year 9999.", param="expires_at"
        )
    return key


def hash_secret(secret: bytes) -> bytes:
    """What is stored of a key, and what it is looked up by: SHA-256 of the whole key.

    A fast hash is the right one here. Slow hashes protect what people think up; a key holds 256 random bits, which
    nobody can guess through any hash. For the same reason the lookup need not take constant time: what its timing
    tells is about a hash, and that cannot be turned into a key.
    """
    return hashlib.sha256(secret).digest()


def period_name(period: BudgetPeriod, now_s: float) -> str:
    """The period that `now_s` falls into, such as `total`, `2026-11` or `2026-11-24`."""
    if period == "total":
        return "total"
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m" if period == "month" else "%Y-%m-%d")


def period_end_s(period: BudgetPeriod, now_s: float) -> float:
    """When the period that `now_s` falls into is over, in seconds since the epoch; infinite for `total`."""
    if period == "total":
        return math.inf
    midnight = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
