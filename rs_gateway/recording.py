"""What is done with a request that has ended: its price, its account, its trace."""

from collections.abc import Callable
from dataclasses import replace

from rs_gateway.domain.access import Admission
from rs_gateway.domain.ports import TraceStore
from rs_gateway.domain.traces import Trace, Usage


class Recorder:
    """Every request of every endpoint ends here, exactly once.

    Args:
        cost_usd: (provider, model, usage) -> price in US dollars, None when it is unknown.
        observers: told of every trace after it was priced; quick, and raise nothing.
        wait_for_commit: `durability: sync`, the answer waits for its group commit.
    """

    def __init__(
        self,
        traces: TraceStore,
        *,
        cost_usd: Callable[[str, str, Usage], float | None] = lambda provider, model, usage: None,
        observers: tuple[Callable[[Trace], None], ...] = (),
        wait_for_commit: bool = False,
    ) -> None:
        self._traces = traces
        self._cost_usd = cost_usd
        self._observers = observers
        self._wait_for_commit = wait_for_commit

    async def record(self, trace: Trace, admission: Admission) -> None:
        """Price it, charge its key, tell the observers, queue it for the store."""
        usage = trace.usage
        if trace.provider is not None and trace.model is not None and usage.input_tokens is not None:
            trace = replace(trace, cost_usd=self._cost_usd(trace.provider, trace.model, usage))
        admission.settle(tokens=(usage.input_tokens or 0) + (usage.output_tokens or 0), cost_usd=trace.cost_usd)
        for observe in self._observers:
            observe(trace)
        if self._wait_for_commit:
            await self._traces.committed(trace)
        else:
            self._traces.append(trace)
