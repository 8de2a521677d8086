"""What is done with a request that has ended: its price, its account, its trace."""

import asyncio
from collections.abc import Callable

from rs_gateway.domain.access import Admission
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import ClientStalledError, ProviderCutError, ProviderError, RouteSwitchError
from rs_gateway.domain.ports import TraceStore
from rs_gateway.domain.traces import Outcome, Trace, Usage


class Recorder:
    """Every request of every endpoint ends here, exactly once.

    Args:
        price: (provider, model, usage) -> price in US dollars, None when it is unknown.
        observers: told of every trace after it was priced; quick, and raise nothing.
        wait_for_commit: `durability: sync`, the answer waits for its group commit.
    """

    def __init__(
        self,
        traces: TraceStore,
        *,
        price: Callable[[str, str, Usage], float | None] = lambda provider, model, usage: None,
        observers: tuple[Callable[[Trace], None], ...] = (),
        wait_for_commit: bool = False,
    ) -> None:
        self._traces = traces
        self._price = price
        self._observers = observers
        self._wait_for_commit = wait_for_commit

    def cost_usd(self, combination: Combination | None, usage: Usage) -> float | None:
        """What `usage` costs there, in US dollars; None when nobody knows the price, or nobody was asked."""
        if combination is None or usage.input_tokens is None:
            return None
        return self._price(combination.provider, combination.model, usage)

    async def record(self, trace: Trace, admission: Admission) -> None:
        """Charge its key, tell the observers, queue it for the store."""
        usage = trace.usage
        admission.settle(tokens=(usage.input_tokens or 0) + (usage.output_tokens or 0), cost_usd=trace.cost_usd)
        for observe in self._observers:
            observe(trace)
        if self._wait_for_commit:
            await self._traces.committed(trace)
        else:
            self._traces.append(trace)


def outcome_of_error(error: BaseException) -> tuple[Outcome, str]:
    """How a request ended that ended with `error`, and the code for its trace."""
    if isinstance(error, ProviderCutError):
        return Outcome.PROVIDER_CUT, error.code
    if isinstance(error, ProviderError):
        return Outcome.PROVIDER_ERROR, error.code
    if isinstance(error, ClientStalledError):
        return Outcome.CLIENT_CANCELLED, error.code
    if isinstance(error, RouteSwitchError):
        return Outcome.REJECTED, error.code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Outcome.CLIENT_CANCELLED, "client_cancelled"
    return Outcome.PROVIDER_ERROR, "internal"
