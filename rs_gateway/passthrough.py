"""The whole path of a request for embeddings, Responses or Messages: no template, one provider, nothing rewritten."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.endpoint_answers import answer_of
from rs_gateway.domain.endpoints import (
    Endpoint,
    EndpointAnswer,
    EndpointCall,
    EndpointModelNotFoundError,
    EndpointProvider,
    EndpointRequest,
    TemplateOnEndpointError,
    options_for,
)
from rs_gateway.domain.errors import (
    NotForThisKeyError,
    ProviderCutError,
    ProviderError,
    ProviderGarbageError,
    ProviderRefusedError,
    ProviderTimeoutError,
    RouteSwitchError,
    ShuttingDownError,
)
from rs_gateway.domain.health import Result
from rs_gateway.domain.router import Router
from rs_gateway.domain.routing import Decision
from rs_gateway.domain.traces import Attempt, Outcome, StoreMode, Trace, TracePayload, Usage, least
from rs_gateway.endpoint_streams import OpenedEvents, Read, open_events, read
from rs_gateway.journey import ANYBODY, Caller
from rs_gateway.patience import Patience
from rs_gateway.recording import Recorder, outcome_of_error
from rs_gateway.retries import Backoff, wait_for_turn
from rs_gateway.serving import Served, Source
from rs_gateway.shutdown import cancellation_code, overtaken
from rs_gateway.trace_ids import TraceIds

_T = TypeVar("_T")
_BLAMELESS = frozenset({Outcome.CLIENT_CANCELLED, Outcome.REJECTED})
_FAILURES = frozenset({Outcome.PROVIDER_CUT, Outcome.PROVIDER_ERROR})


class EventReader(Protocol):
    """The client's end of a stream."""

    async def begin(self, passage: "Passage") -> None:
        """The answer has begun: headers may go out."""
        ...

    async def write(self, block: bytes) -> None:
        """Send SSE bytes; returns when there is room for more."""
        ...

    async def fail(self, block: bytes) -> None:
        """Send the event that tells of a break; the connection is closed after it."""
        ...


@dataclass(slots=True)
class Passage:
    """One request on its way: what is known of it so far, until it becomes its trace.

    Attributes:
        started_at: seconds since the epoch; started: on the performance counter.
        mark: of the attempt that is under way, for the router; None when there is none.
        waited_s: spent waiting for the provider, in seconds; the rest is our own overhead.
        carried_s: what the provider took of that after its answer had begun.
        is_settled: how it ended is known; what happens afterwards changes nothing.
    """

    request: EndpointRequest
    caller: Caller
    trace_id: str
    started_at: float
    started: float
    combination: Combination | None = None
    decision: Decision | None = None
    mark: int | None = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    waited_s: float = 0.0
    carried_s: float = 0.0
    first_token_s: float | None = None
    outcome: Outcome = Outcome.PROVIDER_ERROR
    error_code: str | None = None
    answer: EndpointAnswer | None = None
    is_settled: bool = False

    @property
    def overhead_ms(self) -> float:
        """What the gateway itself has cost so far, in milliseconds."""
        return max(0.0, (time.perf_counter() - self.started - self.waited_s) * 1000)

    @property
    def elapsed_s(self) -> float:
        """Since the request was read, in seconds."""
        return time.perf_counter() - self.started

    def finish(self, answer: EndpointAnswer) -> None:
        """It ends with this answer, which may itself tell of a failure."""
        self.answer, self.outcome, self.is_settled = answer, answer.outcome, True
        if answer.outcome is Outcome.PROVIDER_ERROR:
            self.error_code = ProviderError.code

    def fail(self, error: BaseException) -> None:
        """It ends with this error, unless it has ended before."""
        if not self.is_settled:
            self.outcome, self.error_code = outcome_of_error(error)
            self.is_settled = True

    def trace(self, *, cost_usd: float | None, default_store: StoreMode) -> Trace:
        """The finished trace; kept as little as the strictest of configuration, key and request says."""
        request, combination, answer, admission = self.request, self.combination, self.answer, self.caller.admission
        return Trace(
            trace_id=self.trace_id,
            started_at=self.started_at,
            request_model=request.model,
            outcome=self.outcome,
            stream=request.stream,
            latency_s=self.elapsed_s,
            usage=answer.usage if answer is not None else Usage.unknown(),
            combination_id=combination.combination_id if combination is not None else None,
            provider=combination.provider if combination is not None else None,
            model=combination.model if combination is not None else None,
            response_model=answer.model if answer is not None else None,
            finish_reason=answer.finish_reason if answer is not None else None,
            error_code=self.error_code,
            time_to_first_token_s=self.first_token_s,
            cost_usd=cost_usd,
            end_user=request.end_user,
            decision=self.decision,
            attempts=tuple(self.attempts),
            payload=TracePayload(
                request.messages,
                {},
                request.parameters,
                request.messages,
                answer.response if answer is not None else None,
            ),
            key_id=admission.key_id,
            endpoint=request.endpoint,
            store=least(default_store, self.caller.store, admission.store),
            traceparent=self.caller.traceparent,
        )


class Passthrough:
    """Answers these endpoints from the current picture.

    Args:
        encode_error: (request, error, number of the event) -> the error event that a client gets in mid-stream.
        random_draw, sleep: replaced in tests, so that nothing is left to chance and nobody waits.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        router: Router,
        *,
        encode_error: Callable[[Passage, RouteSwitchError, int], bytes],
        random_draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._router = router
        self._encode_error = encode_error
        self._draw = random_draw
        self._ids = TraceIds()
        self._backoff = Backoff(draw=random_draw)
        self._sleep = sleep

    def begin(self, request: EndpointRequest, caller: Caller = ANYBODY) -> Passage:
        """A fresh passage with its trace id."""
        return Passage(request, caller, self._ids.new(), time.time(), time.perf_counter())

    async def complete(self, passage: Passage) -> bytes:
        """Answer in one piece, in the provider's own bytes. Raises RouteSwitchError; a trace is written in any case."""
        served = self._source.served
        try:
            provider = self._choose(served, passage)

            async def ask(call: EndpointCall) -> tuple[bytes, EndpointAnswer]:
                body = await provider.ask(call)
                try:
                    return body, answer_of(call.request, body)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise _garbage(passage) from error

            async with asyncio.timeout(served.timeout_s):
                body, answer = await self._first_answer(served, passage, ask)
            passage.finish(answer)
            return body
        except BaseException as error:
            error = _meaning(error, passage)
            passage.fail(error)
            raise error from error.__cause__
        finally:
            self._close_attempt(passage)
            await self._record(passage, default_store=served.store)

    async def stream(self, passage: Passage, reader: EventReader) -> None:
        """Answer as a stream: the provider's events as they came. `reader.begin` is called at the first one.

        A break after that becomes an error event, and no exception. Raises RouteSwitchError before.
        """
        served = self._source.served
        opened: OpenedEvents | None = None
        try:
            async with AsyncExitStack() as stack:
                provider = self._choose(served, passage)

                async def open_on_stack(call: EndpointCall) -> OpenedEvents:
                    return await open_events(stack, provider, call, name=_name(passage))

                async with asyncio.timeout(served.timeout_s):
                    opened = await self._first_answer(served, passage, open_on_stack)
                passage.first_token_s = passage.elapsed_s
                await self._carry(served, passage, opened, reader)
        except BaseException as error:
            error = _meaning(error, passage)
            passage.fail(error)
            raise error from error.__cause__
        finally:
            self._close_attempt(passage)
            if opened is not None:
                passage.answer = opened.follower.answer()
            await self._record(passage, default_store=served.store)

    async def refuse(self, endpoint: Endpoint, error: RouteSwitchError, caller: Caller, *, started: float) -> str:
        """Account for a request that could not be read. Nothing of it is kept but its count. Returns an id."""
        request = EndpointRequest(endpoint, "", {}, stream=False, headers={})
        passage = Passage(request, caller, self._ids.new(), time.time(), started)
        passage.fail(error)
        await self._record(passage, default_store=StoreMode.NONE)
        return passage.trace_id

    async def _carry(self, served: Served, passage: Passage, opened: OpenedEvents, reader: EventReader) -> None:
        """Events for the client up to the protocol's own end, or an error event if the answer broke off."""
        name, follower = _name(passage), opened.follower
        patience = Patience(budget_s=served.timeout_s - passage.elapsed_s, client_s=served.client_stall_s)
        try:
            with patience:
                patience.on_client()
                await reader.begin(passage)
                batch: Read | None = opened.first
                while batch is not None:
                    if batch.block:
                        patience.on_client()
                        await reader.write(batch.block)
                        patience.on_provider()
                    if batch.error is not None:
                        raise batch.error
                    if batch.ended:
                        passage.finish(follower.answer())
                        return
                    events = await anext(opened.rest, None)
                    batch = None if events is None else read(events, follower, name)
            raise ProviderCutError(f"{name} ended a stream before its answer was complete.", provider=name)
        except TimeoutError:
            error: RouteSwitchError = ProviderTimeoutError("The request's deadline passed.", provider=name)
        except ProviderError as raised:
            error = raised
        except asyncio.CancelledError as cancelled:
            stopped = overtaken(cancelled)
            if stopped is None:
                raise
            error = stopped
        finally:
            passage.carried_s = patience.provider_s
        passage.outcome, passage.error_code, passage.is_settled = Outcome.PROVIDER_CUT, error.code, True
        await reader.fail(self._encode_error(passage, error, follower.next_number))

    async def _first_answer(self, served: Served, passage: Passage, ask: Callable[[EndpointCall], Awaitable[_T]]) -> _T:
        combination, request = passage.combination, passage.request
        assert combination is not None
        defaults = options_for(request.endpoint, combination.parameters)
        attempt = 0
        while True:
            passage.waited_s += await wait_for_turn(
                served.rate_limits.get(combination.provider),
                provider=combination.provider,
                left_s=served.timeout_s - passage.elapsed_s,
                sleep=self._sleep,
            )
            left_s = max(0.001, served.timeout_s - passage.elapsed_s)
            try:
                return await self._attempt(passage, EndpointCall(request, combination.model, defaults, left_s), ask)
            except ProviderError as error:
                pause_s = self._backoff.pause_s(attempt, retry_after_s=error.retry_after_s)
                out_of_time = passage.elapsed_s + pause_s >= served.timeout_s
                if not error.retryable or attempt == served.max_retries or out_of_time:
                    raise
            await self._sleep(pause_s)
            passage.waited_s += pause_s
            attempt += 1

    def _choose(self, served: Served, passage: Passage) -> EndpointProvider:
        request, catalog = passage.request, served.catalog
        combination = catalog.passthrough.get(request.model)
        if combination is None:
            if request.model in catalog.pools or request.model in catalog.unavailable:
                raise TemplateOnEndpointError(request)
            unknown = EndpointModelNotFoundError(request, available=list(catalog.passthrough))
            raise unknown if passage.caller.admission.key_id is None else NotForThisKeyError(unknown)
        passage.caller.admission.check(template_id=None, model=request.model)
        passage.combination = combination
        # As chat does for a model without a template. It is a pool of one, which is asked however it is doing.
        passage.decision = self._router.choose(
            f"@{request.model}", (combination,), draw=self._draw(), now_s=time.monotonic()
        )
        return served.endpoints[combination.provider, request.endpoint]

    async def _attempt(self, passage: Passage, call: EndpointCall, ask: Callable[[EndpointCall], Awaitable[_T]]) -> _T:
        """One try. When it answers, it stays under way at the router until `_close_attempt`."""
        combination = passage.combination
        assert combination is not None
        passage.mark = self._router.started(combination.combination_id)
        began = time.perf_counter()
        code, status = RouteSwitchError.code, None
        succeeded: bool | None = None
        try:
            answer = await ask(call)
            code, status = None, 200
            return answer
        except ProviderError as error:
            code, status = error.code, error.status
            blameless = isinstance(error, ProviderRefusedError) and not error.is_about_us
            succeeded = None if blameless else False
            raise
        except RouteSwitchError as error:
            code = error.code
            raise
        except asyncio.CancelledError as cancelled:
            # Either the client left, or the request's deadline passed while the provider was thinking.
            late = time.perf_counter() - began >= call.timeout_s
            code, succeeded = ("provider_timeout", False) if late else (cancellation_code(cancelled), None)
            raise
        finally:
            took_s = time.perf_counter() - began
            passage.waited_s += took_s
            passage.attempts.append(
                Attempt(combination.combination_id, combination.provider, combination.model, None, code, status, took_s)
            )
            if code is not None:
                self._ended(passage, succeeded, latency_s=took_s)

    def _close_attempt(self, passage: Passage) -> None:
        """Tell the router how the attempt that answered, if one did, went in the end."""
        if passage.mark is not None:
            self._ended(passage, _verdict(passage), latency_s=passage.attempts[-1].latency_s + passage.carried_s)

    def _ended(self, passage: Passage, succeeded: bool | None, *, latency_s: float) -> None:
        assert passage.combination is not None
        result, mark, passage.mark = Result(succeeded, latency_s=latency_s), passage.mark, None
        self._router.ended(passage.combination.combination_id, result, now_s=time.monotonic(), mark=mark)

    async def _record(self, passage: Passage, *, default_store: StoreMode) -> None:
        usage = passage.answer.usage if passage.answer is not None else Usage.unknown()
        cost_usd = self._recorder.cost_usd(passage.combination, usage)
        trace = passage.trace(cost_usd=cost_usd, default_store=default_store)
        await self._recorder.record(trace, passage.caller.admission)


def _verdict(passage: Passage) -> bool | None:
    """Whether the provider did its part; None when something else ended the request."""
    if passage.outcome in _BLAMELESS or passage.error_code in (RouteSwitchError.code, ShuttingDownError.code):
        return None
    return passage.outcome not in _FAILURES


def _name(passage: Passage) -> str:
    return passage.combination.provider if passage.combination is not None else "the provider"


def _garbage(passage: Passage) -> ProviderError:
    name, endpoint = _name(passage), passage.request.endpoint
    return ProviderGarbageError(
        f"{name} answered 200 with something that is no answer of {endpoint}.", provider=name, status=200
    )


def _meaning(error: BaseException, passage: Passage) -> BaseException:
    if not isinstance(error, TimeoutError):
        return overtaken(error) or error
    name = _name(passage)
    return ProviderTimeoutError(f"{name} did not answer before the request's deadline.", provider=name)
