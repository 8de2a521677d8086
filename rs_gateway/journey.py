"""One request on its way: what is known of it so far, until it becomes its trace."""

import time
from dataclasses import dataclass, field

from rs_gateway.domain.access import OPEN, Admission
from rs_gateway.domain.chat import ChatRequest, JsonObject, Message
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.pools import Pool
from rs_gateway.domain.routing import Decision
from rs_gateway.domain.traces import Attempt, Outcome, StoreMode, Trace, TracePayload, Usage, least


@dataclass(frozen=True, slots=True)
class Caller:
    """What the HTTP side knows of who asks, beside the body.

    Attributes:
        store: how much of the request may be kept at most, by the request's own word.
        traceparent: W3C trace context header.
    """

    admission: Admission = OPEN
    store: StoreMode = StoreMode.FULL
    traceparent: str | None = None


ANYBODY = Caller()


@dataclass(slots=True)
class Journey:
    """Filled in step by step.

    Attributes:
        started_at: seconds since the epoch; started: on the performance counter.
        output: of the version that was sent last.
        mark: the router's, of the attempt under way.
        barred: fallbacks that the caller's key may not ask.
        waited_s: spent waiting for providers and rate limits, in seconds; the rest is our own overhead.
    """

    request: ChatRequest
    caller: Caller
    trace_id: str
    started_at: float
    started: float
    decision: Decision | None = None
    pool: Pool | None = None
    combination: Combination | None = None
    version: int | None = None
    output: OutputFormat = OutputFormat.BARE
    rendered: tuple[Message, ...] = ()
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    waited_s: float = 0.0
    mark: int = 0
    barred: frozenset[str] = frozenset()

    @property
    def overhead_ms(self) -> float:
        """What the gateway itself has cost so far, in milliseconds."""
        return max(0.0, (time.perf_counter() - self.started - self.waited_s) * 1000)

    @property
    def elapsed_s(self) -> float:
        """Since the request was read, in seconds."""
        return time.perf_counter() - self.started

    def trace(self, ending: "Ending", *, cost_usd: float | None, default_store: StoreMode) -> Trace:
        """The finished trace; kept as little as the strictest of configuration, template, key and request says."""
        request, combination, pool = self.request, self.combination, self.pool
        template = pool.template if pool is not None else None
        store = least(
            default_store, self.caller.store, self.caller.admission.store, template.store if template else None
        )
        return Trace(
            trace_id=self.trace_id,
            started_at=self.started_at,
            request_model=request.model,
            outcome=ending.outcome,
            stream=request.stream,
            latency_s=self.elapsed_s,
            usage=ending.usage,
            template_id=template.template_id if template is not None else None,
            version=self.version,
            combination_id=combination.combination_id if combination is not None else None,
            provider=combination.provider if combination is not None else None,
            model=combination.model if combination is not None else None,
            response_model=ending.response_model,
            finish_reason=ending.finish_reason,
            error_code=ending.error_code,
            time_to_first_token_s=ending.first_token_s,
            cost_usd=cost_usd,
            end_user=request.end_user,
            parsed=ending.parsed,
            decision=self.decision,
            attempts=tuple(self.attempts),
            payload=TracePayload(
                *(request.messages, request.variables, request.parameters, self.rendered, ending.response),
                # What was sent holds what was asked once more; the rest is small beside it.
                n_bytes=2 * request.n_bytes + ending.n_bytes + 2_000,
            ),
            key_id=self.caller.admission.key_id,
            store=store,
            traceparent=self.caller.traceparent,
        )


@dataclass(slots=True)
class Ending:
    """How a request ended.

    Attributes:
        first_token_s: from the start to the first byte of a stream; None for plain calls and streams without one.
        n_bytes: about the length of the answer.
        parsed: see Trace.
    """

    outcome: Outcome = Outcome.PROVIDER_ERROR
    usage: Usage = field(default_factory=Usage.unknown)
    error_code: str | None = None
    response: JsonObject | None = None
    finish_reason: str | None = None
    response_model: str | None = None
    first_token_s: float | None = None
    n_bytes: int = 0
    parsed: bool | None = None
