"""A trace: what was asked, what was chosen, what came back, and how it ended. It never claims more than was seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rs_gateway.domain.chat import JsonObject, Message
from rs_gateway.domain.routing import Decision


class Outcome(StrEnum):
    """How a request ended. Only COMPLETE rows may become examples."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    CONTENT_FILTERED = "content_filtered"
    PROVIDER_CUT = "provider_cut"
    CLIENT_CANCELLED = "client_cancelled"
    PROVIDER_ERROR = "provider_error"
    REJECTED = "rejected"


def outcome_of(finish_reason: str | None) -> Outcome:
    """What a finish reason says of the answer. None, in a completion that arrived whole, does not vouch for it."""
    if finish_reason == "content_filter":
        return Outcome.CONTENT_FILTERED
    return Outcome.TRUNCATED if finish_reason in ("length", None) else Outcome.COMPLETE


class UsageSource(StrEnum):
    """Where token counts come from."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class StoreMode(StrEnum):
    """How much of a request is kept. The figures of `/v1/system/analytics` count it in every mode."""

    FULL = "full"
    METRICS = "metrics"
    """The trace without its payload."""
    NONE = "none"
    """Neither; such a trace id can get no feedback."""


_STRICTNESS = (StoreMode.FULL, StoreMode.METRICS, StoreMode.NONE)


def least(*modes: StoreMode | None) -> StoreMode:
    """The mode that keeps the least; those that say nothing (None) do not count."""
    strictest = StoreMode.FULL
    for mode in modes:
        if mode is not None and mode is not strictest and _STRICTNESS.index(mode) > _STRICTNESS.index(strictest):
            strictest = mode
    return strictest


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; None is unknown, which is not 0.

    Attributes:
        cached_input_tokens: those of `input_tokens` that the provider read from its cache.
        reasoning_tokens: those of `output_tokens` that the client does not see.
        cache_write_tokens: those of `input_tokens` that the provider wrote to its cache, at a price of their own.
    """

    input_tokens: int | None
    output_tokens: int | None
    source: UsageSource
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None

    @classmethod
    def unknown(cls) -> "Usage":
        """No counts at all."""
        return cls(None, None, UsageSource.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to one provider within a request.

    Attributes:
        version: the prompt version that this attempt rendered; None for pass-through.
        error_code: stable code of what went wrong; None when the attempt answered.
        latency_s: from the start of this attempt to its answer or error, in seconds.
    """

    combination_id: str
    provider: str
    model: str
    version: int | None
    error_code: str | None
    status: int | None
    latency_s: float


@dataclass(frozen=True, slots=True)
class TracePayload:
    """What was said. Kept in a table of its own, so that it may expire or never be stored.

    Attributes:
        request_messages: what the client sent; rendered_messages: what the answering provider was sent.
        response: the assistant message (`role`, `content`, `tool_calls` ...), as far as it came; None if none did.
        n_bytes: about how much of it there is, where somebody knows; None: whoever has to know looks.
    """

    request_messages: tuple[Message, ...]
    variables: Mapping[str, str]
    parameters: JsonObject
    rendered_messages: tuple[Message, ...]
    response: JsonObject | None
    n_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One request, in full.

    Attributes:
        trace_id: ULID; given to the client before the row is committed.
        started_at: seconds since the epoch, UTC.
        request_model: what the client asked for; response_model: what the provider says it was.
        latency_s: until the last byte; time_to_first_token_s: until the first byte of a stream; None for plain calls.
        cost_usd: None when the price is unknown, which is not 0.
        key_id: the client key that asked; None when none was needed.
        endpoint: `chat.completions`, `embeddings`, `responses` or `messages`.
        store: how much of it is kept.
        traceparent: the client's W3C trace context header, for spans; not stored.
        parsed: whether the client got the bare answers that the version's output format holds; False: at least one is
            not in it and went out as it came; None: there was nothing to parse. The payload's response is as it came.
    """

    trace_id: str
    started_at: float
    request_model: str
    outcome: Outcome
    stream: bool
    latency_s: float
    usage: Usage
    template_id: str | None = None
    version: int | None = None
    combination_id: str | None = None
    provider: str | None = None
    model: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    time_to_first_token_s: float | None = None
    cost_usd: float | None = None
    end_user: str | None = None
    decision: Decision | None = None
    attempts: tuple[Attempt, ...] = ()
    payload: TracePayload | None = None
    key_id: str | None = None
    endpoint: str = "chat.completions"
    store: StoreMode = StoreMode.FULL
    traceparent: str | None = None
    parsed: bool | None = None
