"""The whole path of a request: find the pool, choose, render, call, fall back, and record what really happened."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ulid import ULID

from rs_gateway.calls import OpenedStream, complete_once, decode_batch, frame, open_once
from rs_gateway.domain.answers import StreamedAnswer, WireCompletion, outcome_of, text_of, usage_of
from rs_gateway.domain.chat import ChatRequest, JsonObject, Message, ProviderCall
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import (
    InvalidRequestError,
    MissingVariablesError,
    ProviderCutError,
    ProviderError,
    ProviderTimeoutError,
    RouteSwitchError,
)
from rs_gateway.domain.pools import Pool, resolve
from rs_gateway.domain.ports import ChatProvider, TraceStore
from rs_gateway.domain.prompts import render_messages
from rs_gateway.domain.routing import Decision, Strategy
from rs_gateway.domain.traces import Attempt, Outcome, Trace, TracePayload, Usage
from rs_gateway.serving import Served, Source

_BACKOFF_S = 0.25
_MAX_BACKOFF_S = 8.0
_T = TypeVar("_T")


@dataclass(slots=True)
class Journey:
    """What is known of one request so far; becomes its trace."""

    request: ChatRequest
    trace_id: str
    started_at: float
    started: float
    decision: Decision | None = None
    pool: Pool | None = None
    combination: Combination | None = None
    version: int | None = None
    rendered: tuple[Message, ...] = ()
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    waited_s: float = 0.0
    """Spent waiting for providers, in seconds; the rest is our own overhead."""

    @property
    def overhead_ms(self) -> float:
        """What the gateway itself has cost so far, in milliseconds."""
        return max(0.0, (time.perf_counter() - self.started - self.waited_s) * 1000)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, in the provider's own bytes."""

    body: bytes
    journey: Journey


class Answering:
    """An open stream whose first chunk has arrived. Iterate `blocks` to its end inside the context that gave it."""

    def __init__(self, journey: Journey, blocks: AsyncIterator[bytes]) -> None:
        self.journey = journey
        self.blocks = blocks


class Gateway:
    """Answers chat requests from the pools of the current picture.

    Args:
        encode_error: turns an error into the JSON that a client gets in the middle of a stream.
        random_draw, sleep: replaced in tests, so that nothing is left to chance and nobody waits.
    """

    def __init__(
        self,
        source: Source,
        traces: TraceStore,
        *,
        encode_error: Callable[[RouteSwitchError], bytes],
        wait_for_commit: bool = False,
        random_draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._traces = traces
        self._encode_error = encode_error
        self._wait_for_commit = wait_for_commit
        self._draw = random_draw
        self._sleep = sleep
        self._strategies: dict[tuple[str, Callable[[], Strategy]], Strategy] = {}

    def begin(self, request: ChatRequest) -> Journey:
        """A fresh journey with its trace id."""
        return Journey(request, str(ULID()), time.time(), time.perf_counter())

    async def complete(self, journey: Journey) -> Completion:
        """Answer in one piece. Raises RouteSwitchError; whatever happens, a trace is written."""
        served = self._source.served
        outcome, usage, response, finish_reason, model = Outcome.PROVIDER_ERROR, Usage.unknown(), None, None, None
        error_code: str | None = None
        try:
            self._choose(served, journey)
            async with asyncio.timeout(served.timeout_s):
                body, answer = await self._first_answer(served, journey, _complete)
            choice = answer.choices[0]
            response, finish_reason, model = choice.message, choice.finish_reason, answer.model
            outcome = outcome_of(finish_reason)
            usage = usage_of(
                answer.usage,
                input_characters=_characters(journey.rendered),
                output_characters=len(text_of(response.get("content"))),
            )
            return Completion(body, journey)
        except BaseException as error:
            error = self._deadline(error, journey)
            outcome, error_code = _outcome_of_error(error)
            raise error from error.__cause__
        finally:
            await self._record(
                journey,
                outcome=outcome,
                usage=usage,
                response=response,
                finish_reason=finish_reason,
                response_model=model,
                error_code=error_code,
                first_token_s=None,
            )

    @asynccontextmanager
    async def stream(self, journey: Journey) -> AsyncGenerator[Answering]:
        """Answer as a stream; entering waits for the first chunk, so that until then another combination can take over.

        Raises RouteSwitchError on entering. After that, a break becomes an error event in `blocks`, without `[DONE]`.
        """
        served = self._source.served
        answer = StreamedAnswer()
        record = _StreamRecord()
        try:
            async with AsyncExitStack() as stack:
                self._choose(served, journey)

                async def open_on_stack(provider: ChatProvider, call: ProviderCall, name: str) -> OpenedStream:
                    return await open_once(stack, provider, call, name=name)

                async with asyncio.timeout(served.timeout_s):
                    opened = await self._first_answer(served, journey, open_on_stack)
                record.first_token_s = time.perf_counter() - journey.started
                deadline = asyncio.get_running_loop().time() + served.timeout_s - record.first_token_s
                yield Answering(journey, self._blocks(opened, answer, record, journey, deadline))
        except BaseException as error:
            error = self._deadline(error, journey)
            if record.outcome is None:
                record.outcome, record.error_code = _outcome_of_error(error)
            raise error from error.__cause__
        finally:
            await self._record(
                journey,
                outcome=record.outcome or Outcome.CLIENT_CANCELLED,
                usage=usage_of(
                    answer.usage,
                    input_characters=_characters(journey.rendered),
                    output_characters=answer.output_characters,
                )
                if record.first_token_s is not None
                else Usage.unknown(),
                response=answer.message(),
                finish_reason=answer.finish_reason,
                response_model=answer.model,
                error_code=record.error_code,
                first_token_s=record.first_token_s,
            )

    async def _blocks(
        self, opened: OpenedStream, answer: StreamedAnswer, record: "_StreamRecord", journey: Journey, deadline: float
    ) -> AsyncIterator[bytes]:
        """SSE bytes for the client: chunks as they came, then `[DONE]`, or an error event if the answer broke off."""
        wants_usage = journey.request.include_usage
        provider = journey.combination.provider if journey.combination is not None else ""
        try:
            batch = opened.first
            while True:
                block = frame(batch.chunks, answer, wants_usage)
                if block:
                    yield block
                if batch.error is not None:
                    raise batch.error
                try:
                    # Raised only while we wait for the provider; time that a slow client takes to read counts as well.
                    async with asyncio.timeout_at(deadline):
                        payloads = await anext(opened.rest)
                except StopAsyncIteration:
                    break
                batch = decode_batch(payloads, provider)
            if not answer.whole:
                raise ProviderCutError(f"{provider} ended a stream without a finish_reason.", provider=provider)
        except TimeoutError:
            error: RouteSwitchError = ProviderTimeoutError("The request's deadline passed.", provider=provider)
        except ProviderError as raised:
            error = raised
        else:
            record.outcome = outcome_of(answer.finish_reason)
            yield b"data: [DONE]\n\n"
            return
        record.outcome, record.error_code = Outcome.PROVIDER_CUT, error.code
        yield b"data: " + self._encode_error(error) + b"\n\n"

    def _choose(self, served: Served, journey: Journey) -> None:
        pool = resolve(served.catalog, journey.request)
        key = (pool.key, served.new_strategy)
        strategy = self._strategies.get(key)
        if strategy is None:
            strategy = self._strategies[key] = served.new_strategy()
        journey.pool = pool
        journey.decision = strategy.choose(pool.combinations, draw=self._draw())

    async def _first_answer(
        self, served: Served, journey: Journey, ask: Callable[[ChatProvider, ProviderCall, str], Awaitable[_T]]
    ) -> _T:
        """The first usable answer: the chosen combination and its retries, then each fallback with its own version."""
        pool, decision = journey.pool, journey.decision
        assert pool is not None and decision is not None
        by_id = {c.combination_id: c for c in (*pool.combinations, *pool.reserve)}
        order = [decision.chosen, *(c for c in decision.fallbacks if c in by_id)]
        failure: ProviderError | None = None
        for position, combination_id in enumerate(order):
            combination = by_id[combination_id]
            last_resort = position == len(order) - 1
            try:
                call = self._render(served, journey, pool, combination)
            except MissingVariablesError:
                if failure is None:
                    raise
                continue  # a fallback whose version needs more than the client gave cannot help
            for attempt in range(served.max_retries + 1):
                try:
                    return await self._ask(served, journey, call, ask)
                except ProviderError as error:
                    failure = error
                    if not error.retryable:
                        raise
                    pause = self._pause(error, attempt)
                    out_of_time = time.perf_counter() - journey.started + pause >= served.timeout_s
                    asked_to_wait = (error.retry_after_s or 0) > _BACKOFF_S and not last_resort
                    if attempt == served.max_retries or out_of_time or asked_to_wait:
                        break
                    await self._sleep(pause)
                    journey.waited_s += pause
        assert failure is not None
        raise failure

    def _render(self, served: Served, journey: Journey, pool: Pool, combination: Combination) -> ProviderCall:
        request = journey.request
        version = pool.versions.get(combination.combination_id)
        messages = request.messages
        if version is not None and pool.template is not None:
            messages = render_messages(
                version.text, request.variables, request.messages, template_id=pool.template.template_id
            )
        if not request.messages and (version is None or version.text.user is None):
            raise InvalidRequestError(
                "`messages` is empty and the prompt has no user text of its own.", param="messages"
            )
        journey.combination, journey.rendered = combination, messages
        journey.version = version.number if version is not None else None
        parameters = {**combination.parameters, **request.parameters}
        if "max_completion_tokens" in request.parameters and "max_tokens" not in request.parameters:
            parameters.pop("max_tokens", None)  # our default must not contradict the client's own limit
        remaining_s = served.timeout_s - (time.perf_counter() - journey.started)
        return ProviderCall(combination.model, messages, parameters, max(0.001, remaining_s))

    async def _ask(
        self,
        served: Served,
        journey: Journey,
        call: ProviderCall,
        ask: Callable[[ChatProvider, ProviderCall, str], Awaitable[_T]],
    ) -> _T:
        combination = journey.combination
        assert combination is not None
        began = time.perf_counter()
        code, status = "internal", None
        try:
            answer = await ask(served.providers[combination.provider], call, combination.provider)
            code = None
            return answer
        except ProviderError as error:
            code, status = error.code, error.status
            raise
        except asyncio.CancelledError:
            code = "client_cancelled"
            raise
        finally:
            took = time.perf_counter() - began
            journey.waited_s += took
            journey.attempts.append(
                Attempt(
                    combination.combination_id,
                    combination.provider,
                    combination.model,
                    journey.version,
                    code,
                    status if code else 200,
                    took,
                )
            )

    def _pause(self, error: ProviderError, attempt: int) -> float:
        """Full jitter (Brooker, AWS Architecture Blog 2015), never sooner than the provider asked for."""
        jitter = self._draw() * min(_MAX_BACKOFF_S, _BACKOFF_S * 2**attempt)
        return jitter + error.retry_after_s if error.retry_after_s is not None else jitter

    def _deadline(self, error: BaseException, journey: Journey) -> BaseException:
        if not isinstance(error, TimeoutError):
            return error
        provider = journey.combination.provider if journey.combination is not None else "the provider"
        return ProviderTimeoutError(f"{provider} did not answer before the request's deadline.", provider=provider)

    async def _record(
        self,
        journey: Journey,
        *,
        outcome: Outcome,
        usage: Usage,
        response: JsonObject | None,
        finish_reason: str | None,
        response_model: str | None,
        error_code: str | None,
        first_token_s: float | None,
    ) -> None:
        request, combination, pool = journey.request, journey.combination, journey.pool
        trace = Trace(
            trace_id=journey.trace_id,
            started_at=journey.started_at,
            request_model=request.model,
            outcome=outcome,
            stream=request.stream,
            latency_s=time.perf_counter() - journey.started,
            usage=usage,
            template_id=pool.template.template_id if pool is not None and pool.template is not None else None,
            version=journey.version,
            combination_id=combination.combination_id if combination is not None else None,
            provider=combination.provider if combination is not None else None,
            model=combination.model if combination is not None else None,
            response_model=response_model,
            finish_reason=finish_reason,
            error_code=error_code,
            time_to_first_token_s=first_token_s,
            end_user=request.end_user,
            decision=journey.decision,
            attempts=tuple(journey.attempts),
            payload=TracePayload(request.messages, request.variables, request.parameters, journey.rendered, response),
        )
        if self._wait_for_commit:
            await self._traces.committed(trace)
        else:
            self._traces.append(trace)


@dataclass(slots=True)
class _StreamRecord:
    """How a stream went, filled in while it runs. `outcome` stays None as long as nobody knows."""

    outcome: Outcome | None = None
    error_code: str | None = None
    first_token_s: float | None = None


async def _complete(provider: ChatProvider, call: ProviderCall, name: str) -> tuple[bytes, WireCompletion]:
    return await complete_once(provider, call, name=name)


def _outcome_of_error(error: BaseException) -> tuple[Outcome, str | None]:
    if isinstance(error, ProviderCutError):
        return Outcome.PROVIDER_CUT, error.code
    if isinstance(error, ProviderError):
        return Outcome.PROVIDER_ERROR, error.code
    if isinstance(error, RouteSwitchError):
        return Outcome.REJECTED, error.code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Outcome.CLIENT_CANCELLED, "client_cancelled"
    return Outcome.PROVIDER_ERROR, "internal"


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(content) if isinstance(content := m.get("content"), str) else 0 for m in messages)
