"""What one piece of work may spend on model calls, across crashes and restarts."""

import anyio
import anyio.to_thread

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines.answers import AnswerCache
from rs_pipelines.spending import NOTHING, Allowance, Booking, Spending


class BudgetExhaustedError(RouteSwitchError):
    """The next call would exceed what this piece of work may cost; it was not made.

    Attributes:
        may_fit_later: the bookings of calls that are under way stand in its way; what these took in fact may not.
    """

    code = "budget_exhausted"

    def __init__(self, account: str, spent: str, setting: str, *, may_fit_later: bool = False) -> None:
        self.account, self.may_fit_later = account, may_fit_later
        option = " (or --max-calls, where it was given)" if setting == "max_calls" else ""
        super().__init__(
            f"{account}: {spent}. Raise `mipro_v2.{setting}`{option} to go on: answers that were paid for are kept and "
            "cost nothing again."
        )


class CallBudget:
    """What one piece of work may spend. Kept in the cache's file, so that a crash does not reset it.

    Calls of this process that share it wait for each other where only their bookings stand in the way, so that a budget
    is used up to the last call that fits.
    """

    def __init__(
        self, cache: AnswerCache, account: str, allowance: Allowance | None = None, *, title: str | None = None
    ) -> None:
        """
        Args:
            account: identifies the piece of work, for example a study id; title: names it for people.
            allowance: may be replaced; None counts without limits.
        """
        self.cache, self.account = cache, account
        self.allowance = allowance or Allowance()
        self._title = title or account
        self._under_way = 0
        self._settled = anyio.Event()

    async def book(self, booking: Booking = NOTHING) -> None:
        """Book the next call; `settle` must follow. Raises BudgetExhaustedError."""
        while True:
            settled = self._settled
            try:
                await anyio.to_thread.run_sync(self.charge, booking)
            except BudgetExhaustedError as error:
                if not error.may_fit_later or not (self._under_way or settled.is_set()):
                    raise
                await settled.wait()
            else:
                self._under_way += 1
                return

    async def cancel(self, booking: Booking) -> None:
        """Take back the booking of a call that was not made; `settle` must follow."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.cache.cancel, self.account, booking)

    async def refund(self, booking: Booking) -> None:
        """Take back the tokens and dollars of a call that nobody bills; `settle` must follow."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.cache.refund, self.account, booking)

    def settle(self) -> None:
        """A call that was booked has ended, or was not made, and its account is true."""
        self._under_way -= 1
        self._settled.set()
        self._settled = anyio.Event()

    def charge(self, booking: Booking = NOTHING) -> None:
        """Book the next call, without waiting for others. Blocking. Raises BudgetExhaustedError."""
        if self.cache.charge(self.account, self.allowance, booking):
            return
        spent, limits = self.spent, self.allowance
        # (is it exceeded, what is spent, which setting it is)
        reached: list[tuple[bool, str, str]] = []
        if limits.calls is not None:
            reached.append((spent.calls >= limits.calls, f"all {limits.calls} model calls are spent", "max_calls"))
        if limits.tokens is not None:
            exceeded = spent.booked_tokens + booking.tokens > limits.tokens
            words = (
                f"{spent.booked_tokens:,} of {limits.tokens:,} tokens are spent or booked, and the next call may take "
                f"{booking.tokens:,}"
            )
            reached.append((exceeded, words, "max_tokens"))
        if limits.usd is not None:
            exceeded = spent.usd + booking.usd > limits.usd
            words = (
                f"{spent.usd:.4g} of {limits.usd:.4g} USD are spent or booked, and the next call may cost "
                f"{booking.usd:.4g}"
            )
            reached.append((exceeded, words, "max_cost_usd"))
        # None may be exceeded any more: a call that ended in between gave back what it had booked too much.
        _, what, setting = max(reached, key=lambda limit: limit[0])
        raise BudgetExhaustedError(self._title, what, setting, may_fit_later=setting != "max_calls")

    @property
    def spent(self) -> Spending:
        """What was spent so far, crashed runs included."""
        return self.cache.spending(self.account)
