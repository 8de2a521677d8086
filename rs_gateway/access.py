"""Who is let in, on the event loop's thread: keys, limits and budgets in memory, kept in step with the store.

Every worker process has its own `Access`. What it counts goes to the store every `sync_interval_s`, and what the others
counted comes back. So a limit of several workers may be overrun by what they let in during one interval, and a key that
was made, changed or revoked elsewhere counts as such after one interval.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import uuid4

import anyio
import anyio.to_thread
import structlog

from rs_gateway.domain.access import (
    BUDGET_PERIODS,
    OPEN,
    Admission,
    BudgetPeriod,
    ClientKey,
    hash_secret,
    period_end_s,
)
from rs_gateway.domain.access_store import (
    IN_FLIGHT_LEASE_S,
    AccessPicture,
    AccessStore,
    UsageBatch,
)
from rs_gateway.domain.errors import (
    ForbiddenError,
    StoreError,
    UnauthorizedError,
)
from rs_gateway.domain.key_account import KeyAccount

log = structlog.get_logger()

_BEARER = b"authorization"
_KEY_HEADERS = frozenset({_BEARER, b"x-api-key", b"api-key"})
"""Where OpenAI's, Anthropic's and Azure's clients put their key."""
_MAX_SECRET_BYTES = 200
_HEARTBEAT_S = IN_FLIGHT_LEASE_S / 4


def public_address_allowed(store: AccessStore, *, now_s: float) -> bool:
    """Whether the gateway may listen where others reach it: somebody has a key. Raises StoreError."""
    return any(record.key.is_active(now_s) for record in store.records(now_s=now_s))


class Access:
    """The gateway's doorkeeper. Reading it never waits; it belongs to one event loop.

    Attributes:
        error: why the store cannot be reached now; the keys that were last read go on counting. None when it can.
    """

    def __init__(
        self,
        store: AccessStore,
        *,
        sync_interval_s: float = 0.25,
        is_priced: Callable[[str], bool] = lambda model: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read all keys, blocking. Owns the store from now on.

        Args:
            is_priced: whether the price of a model is known.
            clock: seconds since the epoch; the workers of a gateway share it.
        Raises:
            StoreError: the keys cannot be read.
        """
        self.error: str | None = None
        self._store, self._sync_interval_s, self._is_priced, self._clock = store, sync_interval_s, is_priced, clock
        self._worker_id = uuid4().hex
        self._closed = False  # to those without a key; once True it stays so, whatever becomes of the store
        self._accounts: dict[bytes, KeyAccount] = {}
        self._used: list[KeyAccount] = []
        self._syncing = anyio.Lock()
        self._pending: UsageBatch | None = None
        self._n_batches = 0
        self._mark: tuple[int, int] | None = None
        self._in_flight: Mapping[str, int] | None = {}  # what the others were told; None when that is not sure
        self._elsewhere: Mapping[str, int] = {}
        self._told_at_s = -math.inf
        self._take_in(
            store.exchange(self._worker_id, batch=None, in_flight=None, now_s=clock(), since=None), at_s=clock()
        )

    @property
    def required(self) -> bool:
        """Whether requests need a key: there has been one."""
        return self._closed

    def admit(self, headers: Sequence[tuple[bytes, bytes]]) -> Admission:
        """Let a request in and count it; `OPEN` as long as there has never been a key.

        Args:
            headers: as in an ASGI scope, names in lower case.
        Raises:
            UnauthorizedError: no key, two keys, or one that is unknown, revoked or expired.
            RateLimitedError, BudgetExceededError: the key has used up what it may.
        """
        if not self._closed:
            return OPEN
        account = self._account_of(headers)
        account.enter(self._clock())
        self.will_report(account)
        return KeyAdmission(self, account)

    def identify(self, headers: Sequence[tuple[bytes, bytes]]) -> ClientKey | None:
        """Whose request it is, without counting it; None as long as there has never been a key.

        Raises UnauthorizedError.
        """
        if not self._closed:
            return None
        account = self._account_of(headers)
        account.check_active(self._clock())
        return account.key

    def require_admin(self, headers: Sequence[tuple[bytes, bytes]]) -> ClientKey:
        """The admin key that a request to the admin API came with.

        Raises:
            UnauthorizedError: see `admit`.
            ForbiddenError: it is no admin key, or there has never been a key.
        """
        key = self.identify(headers)
        if key is None:
            raise ForbiddenError(
                "The admin API needs an admin key: make one with `route-switch keys create NAME --admin`."
            )
        if not key.admin:
            raise ForbiddenError(
                f"The client key {key.key_id} ({key.name!r}) is no admin key: "
                f"use one, or run `route-switch keys update {key.key_id} --admin`."
            )
        return key

    def check_priced(self, key: ClientKey, model: str) -> None:
        """Raises ForbiddenError: the key has a budget, and nobody knows what this model costs."""
        if key.limits.budget_usd is None or key.limits.allow_unpriced or self._is_priced(model):
            return
        raise ForbiddenError(
            f"The client key {key.key_id} ({key.name!r}) has a budget, and the price of model {model[:100]!r} is not "
            "known, so that the budget could not be held: configure a price, or run "
            f"`route-switch keys update {key.key_id} --allow-unpriced`.",
            param="model",
        )

    def will_report(self, account: KeyAccount) -> None:
        """For admissions: this account has something to tell the store."""
        if not account.in_use:
            account.in_use = True
            self._used.append(account)

    def now_s(self) -> float:
        """The time that limits go by, in seconds since the epoch."""
        return self._clock()

    async def keep_synced(self) -> None:
        """Exchange news with the store every `sync_interval_s`, for ever."""
        while True:
            await anyio.sleep(self._sync_interval_s)
            await self.sync()

    async def sync(self) -> None:
        """Exchange news with the store now. A failure is logged once, and what was counted is sent again next time."""
        async with self._syncing:
            at_s = self._clock()
            if self._pending is None:
                self._pending = self._sealed(at_s)
            in_flight = self._in_flight_news(at_s)
            exchange = partial(
                self._store.exchange,
                self._worker_id,
                batch=self._pending,
                in_flight=in_flight,
                now_s=at_s,
                since=self._mark,
            )
            if in_flight is not None:
                self._in_flight = None
            # A batch stays pending until it is known to be stored. Sent twice, its number keeps it from counting twice.
            try:
                picture = await anyio.to_thread.run_sync(exchange)
            except StoreError as error:
                if self.error is None:
                    log.error("access_store_failing", error=str(error))
                self.error = str(error)
                return
            if self.error is not None:
                log.info("access_store_recovered")
            self.error = self._pending = None
            if in_flight is not None:
                self._in_flight, self._told_at_s = in_flight, at_s
            self._take_in(picture, at_s=at_s)

    async def aclose(self) -> None:
        """Store what was counted since the last time, and close the store."""
        if self._pending is not None:
            await self.sync()
        await self.sync()
        if self._pending is not None:
            log.error("access_usage_lost", keys=len(self._pending.deltas), error=self.error)
        await anyio.to_thread.run_sync(self._store.close)

    def _account_of(self, headers: Sequence[tuple[bytes, bytes]]) -> KeyAccount:
        account = self._accounts.get(hash_secret(_secret_of(headers)))
        if account is None:
            raise UnauthorizedError("This client key is not known here. `route-switch keys list` shows those that are.")
        return account

    def _sealed(self, at_s: float) -> UsageBatch | None:
        if not self._used:
            return None
        self._n_batches += 1
        deltas = {account.key.key_id: account.taken() for account in self._used}
        self._used = []
        return UsageBatch(self._n_batches, at_s, deltas)

    def _in_flight_news(self, at_s: float) -> Mapping[str, int] | None:
        """What the others must hear of requests in flight; None when they know, and know that we are alive."""
        current = {
            account.key.key_id: account.in_flight
            for account in self._accounts.values()
            if account.in_flight > 0 and account.key.limits.concurrency is not None
        }
        if current != self._in_flight or (current and abs(at_s - self._told_at_s) >= _HEARTBEAT_S):
            return current
        return None

    def _take_in(self, picture: AccessPicture, *, at_s: float) -> None:
        before, elsewhere = self._accounts, picture.in_flight_elsewhere
        ends_at_s: dict[BudgetPeriod, float] = {period: period_end_s(period, at_s) for period in BUDGET_PERIODS}
        if picture.whole:
            self._accounts = {}
        for record in picture.records:
            account = before.get(record.secret_hash)
            if account is None:
                account = KeyAccount(record.key)
                account.in_flight_elsewhere = elsewhere.get(record.key.key_id, 0)
            account.take_in(record, at_s=at_s, period_ends_at_s=ends_at_s)
            self._accounts[record.secret_hash] = account
            self._closed = True
        if elsewhere != self._elsewhere:
            for account in self._accounts.values():
                account.in_flight_elsewhere = elsewhere.get(account.key.key_id, 0)
        self._elsewhere, self._mark = elsewhere, picture.mark


class KeyAdmission:
    """See Admission. Let in with a key."""

    __slots__ = ("_access", "_account", "_settled", "key_id", "store")

    def __init__(self, access: Access, account: KeyAccount) -> None:
        key = account.key
        self._access, self._account, self._settled = access, account, False
        self.key_id, self.store = key.key_id, key.store

    def check(self, *, template_id: str | None, model: str) -> None:
        """See Admission. Also raises ForbiddenError for a model without a known price when the key has a budget."""
        key = self._account.key
        if not key.allows(template_id=template_id, model=model):
            raise _out_of_scope(key, template_id=template_id, model=model)
        if key.limits.budget_usd is not None:
            self._access.check_priced(key, model)

    def settle(self, *, tokens: int, cost_usd: float | None) -> None:
        """See Admission. A second call does nothing. A request with tokens and no cost counts as unpriced."""
        if self._settled:
            return
        self._settled = True
        self._account.leave(self._access.now_s(), tokens=tokens, cost_usd=cost_usd)
        self._access.will_report(self._account)


def _secret_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The one key among the headers. Raises UnauthorizedError, which never repeats what was sent."""
    secret, found = None, None
    for name, value in headers:
        if name in _KEY_HEADERS:
            given = _bearer(value) if name == _BEARER else value
            if secret is None:
                secret, found = given, name
            # Some clients send the same key in two headers. Anything else is two answers to one question.
            elif name == found or given != secret:
                raise UnauthorizedError(
                    "The request came with more than one client key: send one `Authorization` header."
                )
    if not secret:
        raise UnauthorizedError(
            "The gateway needs a client key: send it as `Authorization: Bearer KEY`. "
            "`route-switch keys create NAME` makes one."
        )
    if len(secret) > _MAX_SECRET_BYTES:
        raise UnauthorizedError("What was sent as a client key is none: it is too long.")
    return secret


def _bearer(value: bytes) -> bytes:
    scheme, _, secret = value.partition(b" ")
    if scheme != b"Bearer" and scheme.lower() != b"bearer":
        raise UnauthorizedError("The `Authorization` header must read `Bearer KEY`, with a client key of this gateway.")
    return secret.strip()


def _out_of_scope(key: ClientKey, *, template_id: str | None, model: str) -> ForbiddenError:
    what, asked, allowed = (
        ("model", model, key.models) if template_id is None else ("template", template_id, key.templates)
    )
    names = ", ".join(sorted(allowed or ())[:20]) or f"no {what}"
    return ForbiddenError(
        f"The client key {key.key_id} ({key.name!r}) may not use the {what} {asked[:100]!r}. It may use: {names}.",
        param="model",
    )
