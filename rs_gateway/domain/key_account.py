"""What one key has used, as far as one worker knows; and whether it may go on."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from rs_gateway.domain.access import BudgetPeriod, ClientKey, period_end_s
from rs_gateway.domain.access_store import KeyRecord, KeyUsage, UsageDelta
from rs_gateway.domain.errors import BudgetExceededError, RateLimitedError, UnauthorizedError
from rs_gateway.domain.rates import TokenBucket

_BUSY_RETRY_S = 1.0
"""When a key without a free place may try again: nobody knows when a request ends."""


class KeyAccount:
    """One key and what it has used, as far as this worker knows.

    Attributes:
        spent_usd: in the period that ends at `period_ends_at_s`.
        in_use: for its owner: whether there is anything to report.
    """

    __slots__ = (
        *("key", "in_flight", "in_flight_elsewhere", "in_use", "spent_usd", "period_ends_at_s"),
        *("_requests", "_tokens", "_n_requests", "_n_tokens", "_cost_usd", "_n_unpriced"),
    )

    def __init__(self, key: ClientKey) -> None:
        self.key = key
        self.in_flight, self.in_flight_elsewhere, self.in_use = 0, 0, False
        self.spent_usd, self.period_ends_at_s = 0.0, math.inf
        self._requests, self._tokens = _bucket(key.limits.requests_per_minute), _bucket(key.limits.tokens_per_minute)
        self._n_requests, self._n_tokens, self._cost_usd, self._n_unpriced = 0, 0, 0.0, 0

    def check_active(self, now_s: float) -> None:
        """Raises UnauthorizedError."""
        key = self.key
        if key.revoked_at is not None:
            raise UnauthorizedError(f"The client key {key.key_id} was revoked: ask for a new one.")
        if key.expires_at is not None and now_s >= key.expires_at:
            raise UnauthorizedError(
                f"The client key {key.key_id} expired on {_date(key.expires_at)}: ask for a new one."
            )

    def enter(self, now_s: float) -> None:
        """Count one request in. Raises UnauthorizedError, BudgetExceededError, RateLimitedError, and counts nothing."""
        key = self.key
        if key.revoked_at is not None or key.expires_at is not None:
            self.check_active(now_s)
        limits = key.limits
        if limits.budget_usd is not None:
            self._check_budget(limits.budget_usd, limits.budget_period, now_s)
        if limits.concurrency is not None and self.in_flight + self.in_flight_elsewhere >= limits.concurrency:
            raise RateLimitedError(
                f"The client key {key.key_id} has {limits.concurrency} requests in flight, as many as it may: "
                "wait until one has ended.",
                retry_after_s=_BUSY_RETRY_S,
            )
        requests, tokens = self._requests, self._tokens
        if requests is not None and (wait_s := requests.wait_s(now_s)):
            raise RateLimitedError(
                f"The client key {key.key_id} may make {limits.requests_per_minute} requests a minute.",
                retry_after_s=wait_s,
            )
        if tokens is not None and (wait_s := tokens.wait_s(now_s)):
            raise RateLimitedError(
                f"The client key {key.key_id} may use {limits.tokens_per_minute} tokens a minute, and has used more.",
                retry_after_s=wait_s,
            )
        if requests is not None:
            requests.take(1.0, now_s)
        self.in_flight += 1
        self._n_requests += 1

    def leave(self, now_s: float, *, tokens: int, cost_usd: float | None) -> None:
        """Count what a request used, and free its place."""
        self.in_flight -= 1
        if tokens > 0:
            self._n_tokens += tokens
            if self._tokens is not None:
                self._tokens.take(tokens, now_s)
            if cost_usd is None:
                self._n_unpriced += 1
        if cost_usd is not None and cost_usd > 0:
            self._cost_usd += cost_usd
            self.spent_usd += cost_usd

    def taken(self) -> UsageDelta:
        """What was counted since the last time."""
        self.in_use = False
        delta = UsageDelta(
            KeyUsage(self._n_requests, self._n_tokens, self._cost_usd, self._n_unpriced),
            requests_debt_s=self._n_requests / self._requests.rate_per_s if self._requests is not None else 0.0,
            tokens_debt_s=self._n_tokens / self._tokens.rate_per_s if self._tokens is not None else 0.0,
        )
        self._n_requests, self._n_tokens, self._cost_usd, self._n_unpriced = 0, 0, 0.0, 0
        return delta

    def take_in(self, record: KeyRecord, *, at_s: float, period_ends_at_s: Mapping[BudgetPeriod, float]) -> None:
        """Go by what the store knew at `at_s`, all workers included, and what was counted here since.

        Args:
            period_ends_at_s: when the periods that `at_s` falls into are over.
        """
        if record.key.limits != self.key.limits:
            limits = record.key.limits
            self._requests, self._tokens = _bucket(limits.requests_per_minute), _bucket(limits.tokens_per_minute)
        self.key = record.key
        period = record.key.limits.budget_period
        self.spent_usd = record.usage.get(period, KeyUsage()).cost_usd + self._cost_usd
        self.period_ends_at_s = period_ends_at_s[period]
        if self._requests is not None:
            self._requests.full_at_s = record.requests_full_at_s
            self._requests.take(self._n_requests, at_s)
        if self._tokens is not None:
            self._tokens.full_at_s = record.tokens_full_at_s
            self._tokens.take(self._n_tokens, at_s)

    def _check_budget(self, budget_usd: float, period: BudgetPeriod, now_s: float) -> None:
        if now_s >= self.period_ends_at_s:
            self.spent_usd, self.period_ends_at_s = self._cost_usd, period_end_s(period, now_s)
        if self.spent_usd < budget_usd:
            return
        anew = "" if period == "total" else f" It starts anew on {_date(self.period_ends_at_s)}."
        raise BudgetExceededError(
            f"The client key {self.key.key_id} has spent {self.spent_usd:.4f} of {budget_usd:g} USD"
            f"{'' if period == 'total' else f' this {period}'}.{anew}"
        )


def _bucket(per_minute: int | None) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute / 60, per_minute)


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
