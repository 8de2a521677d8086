"""A fake access store, on which `tests/contracts` runs the same suite as on SQLite; and workers with a clock."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rs_gateway.access import Access
from rs_gateway.domain.access import (
    BUDGET_PERIODS,
    Admission,
    BudgetPeriod,
    ClientKey,
    KeyLimits,
    KeyNotFoundError,
    period_name,
)
from rs_gateway.domain.access_store import (
    IN_FLIGHT_LEASE_S,
    AccessPicture,
    AccessStore,
    KeyRecord,
    KeyUsage,
    UsageBatch,
)
from rs_gateway.domain.errors import InvalidRequestError, RateLimitedError, StoreError
from rs_gateway.keys import Grant, IssuedKey, issue_key

NOON = 1_700_049_600.0
"""2023-11-15 12:00 UTC, in the middle of a day and of a month."""


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self, now_s: float = NOON) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class _Stored:
    key: ClientKey
    secret_hash: bytes
    revision: int
    requests_full_at_s: float = 0.0
    tokens_full_at_s: float = 0.0
    usage: dict[str, KeyUsage] = field(default_factory=dict[str, KeyUsage])


@dataclass
class _Worker:
    batch: int = 0
    seen_at_s: float = 0.0
    in_flight: Mapping[str, int] = field(default_factory=dict[str, int])


class MemoryAccessStore:
    """AccessStore in a dictionary. Set `failing` and every call raises StoreError until it is cleared."""

    def __init__(self) -> None:
        self.failing: str | None = None
        self.forgetful = False
        """Store what is exchanged and then fail all the same, as a disk does that reports too late."""
        self._keys: dict[str, _Stored] = {}
        self._workers: dict[str, _Worker] = {}
        self._revision = 0
        self._lock = threading.Lock()

    def create(self, key: ClientKey, *, secret_hash: bytes) -> None:
        with self._lock:
            self._check()
            if key.key_id in self._keys:
                raise InvalidRequestError(f"There is a client key {key.key_id!r} already.", param="key_id")
            self._revision += 1
            self._keys[key.key_id] = _Stored(key, secret_hash, self._revision)

    def update(self, key_id: str, change: Callable[[ClientKey], ClientKey]) -> ClientKey:
        with self._lock:
            self._check()
            if key_id not in self._keys:
                raise KeyNotFoundError(key_id)
            stored = self._keys[key_id]
            before, stored.key = stored.key, change(stored.key)
            self._revision += 1
            stored.revision = self._revision
            if stored.key.limits.requests_per_minute != before.limits.requests_per_minute:
                stored.requests_full_at_s = 0.0
            if stored.key.limits.tokens_per_minute != before.limits.tokens_per_minute:
                stored.tokens_full_at_s = 0.0
            return stored.key

    def records(self, *, now_s: float) -> Sequence[KeyRecord]:
        with self._lock:
            self._check()
            return self._changed(after=0, now_s=now_s)

    def exchange(
        self,
        worker_id: str,
        *,
        batch: UsageBatch | None,
        in_flight: Mapping[str, int] | None,
        now_s: float,
        since: tuple[int, int] | None,
    ) -> AccessPicture:
        with self._lock:
            self._check()
            worker = self._workers.setdefault(worker_id, _Worker())
            if batch is not None and batch.number > worker.batch:
                worker.batch = batch.number
                self._count(batch)
            if batch is not None or in_flight is not None:
                worker.seen_at_s = now_s
            if in_flight is not None:
                worker.in_flight = dict(in_flight)
            if self.forgetful:
                raise StoreError("The disk reported too late.")
            elsewhere: dict[str, int] = {}
            for name, other in self._workers.items():
                if name != worker_id and abs(now_s - other.seen_at_s) < IN_FLIGHT_LEASE_S:
                    for key_id, requests in other.in_flight.items():
                        elsewhere[key_id] = elsewhere.get(key_id, 0) + requests
            known = 0 if since is None else since[1]
            return AccessPicture(self._changed(after=known, now_s=now_s), since is None, elsewhere, (1, self._revision))

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.failing is not None:
            raise StoreError(self.failing)

    def _changed(self, *, after: int, now_s: float) -> list[KeyRecord]:
        names: dict[BudgetPeriod, str] = {period: period_name(period, now_s) for period in BUDGET_PERIODS}
        return [
            KeyRecord(
                stored.key,
                stored.secret_hash,
                {period: stored.usage[name] for period, name in names.items() if name in stored.usage},
                stored.requests_full_at_s,
                stored.tokens_full_at_s,
            )
            for stored in self._keys.values()
            if stored.revision > after
        ]

    def _count(self, batch: UsageBatch) -> None:
        self._revision += 1
        for key_id, delta in batch.deltas.items():
            stored = self._keys[key_id]
            stored.revision = self._revision
            for period in BUDGET_PERIODS:
                name = period_name(period, batch.at_s)
                old, new = stored.usage.get(name, KeyUsage()), delta.usage
                stored.usage[name] = replace(
                    old,
                    requests=old.requests + new.requests,
                    tokens=old.tokens + new.tokens,
                    cost_usd=old.cost_usd + new.cost_usd,
                    unpriced_requests=old.unpriced_requests + new.unpriced_requests,
                )
            if delta.requests_debt_s > 0:
                stored.requests_full_at_s = max(stored.requests_full_at_s, batch.at_s) + delta.requests_debt_s
            if delta.tokens_debt_s > 0:
                stored.tokens_full_at_s = max(stored.tokens_full_at_s, batch.at_s) + delta.tokens_debt_s


Headers = list[tuple[bytes, bytes]]


class World:
    """A store, a clock, and any number of workers."""

    def __init__(self, store: AccessStore | None = None) -> None:
        self.store = store or MemoryAccessStore()
        self.clock = Clock()

    def issue(self, name: str = "shop", *, limits: KeyLimits | None = None, **grant: object) -> IssuedKey:
        wanted = replace(Grant(name, limits=limits or KeyLimits()), **grant)  # pyright: ignore[reportArgumentType]
        return issue_key(self.store, wanted, by="ann", now_s=self.clock())

    def worker(self, *, is_priced: Callable[[str], bool] = lambda model: True) -> Access:
        return Access(self.store, clock=self.clock, is_priced=is_priced)


def bearer(key: IssuedKey | str) -> Headers:
    secret = key if isinstance(key, str) else key.secret
    return [(b"host", b"gateway"), (b"authorization", f"Bearer {secret}".encode()), (b"accept", b"*/*")]


def sync(*workers: Access) -> None:
    async def all_of_them() -> None:
        for worker in workers:
            await worker.sync()

    asyncio.run(all_of_them())


def spend(worker: Access, key: IssuedKey | str, *, tokens: int = 0, cost_usd: float | None = 0.0) -> None:
    worker.admit(bearer(key)).settle(tokens=tokens, cost_usd=cost_usd)


def admitted(worker: Access, key: IssuedKey, n: int) -> list[Admission]:
    """What gets in of `n` requests that never end."""
    inside: list[Admission] = []
    for _ in range(n):
        try:
            inside.append(worker.admit(bearer(key)))
        except RateLimitedError:
            break
    return inside
