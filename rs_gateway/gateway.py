"""The whole path of a chat request: find the pool, choose, ask, and record what really happened."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from rs_gateway.adapters.shared_timer import Limit, TimerOf
from rs_gateway.attempts import Attempts
from rs_gateway.calls import OpenedStream, complete_once, open_once
from rs_gateway.domain.access import Admission
from rs_gateway.domain.answers import (
    WireCompletion,
    counted_usage,
    estimated_usage,
    generated_characters,
)
from rs_gateway.domain.chat import ChatRequest, Message, ProviderCall
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.delivery import delivered_completion
from rs_gateway.domain.endpoints import text_length
from rs_gateway.domain.errors import (
    ClientStalledError,
    ForbiddenError,
    ModelNotFoundError,
    NotForThisKeyError,
    ProviderError,
    ProviderTimeoutError,
    RouteSwitchError,
    ShuttingDownError,
)
from rs_gateway.domain.health import Result
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.pools import resolve
from rs_gateway.domain.ports import ChatProvider
from rs_gateway.domain.router import Router
from rs_gateway.domain.traces import Outcome, StoreMode, Trace, Usage, outcome_of
from rs_gateway.journey import ANYBODY, Caller, Ending, Journey
from rs_gateway.patience import Patience
from rs_gateway.reader import HeldReader, Reader
from rs_gateway.recording import Recorder, outcome_of_error
from rs_gateway.relay import Relay
from rs_gateway.serving import Served, Source
from rs_gateway.shutdown import overtaken
from rs_gateway.trace_ids import TraceIds

_SUCCESSES = frozenset({Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.CONTENT_FILTERED})


class Gateway:
    """Answers chat requests from the pools of the current picture.

    Args:
        encode_error: turns an error into the JSON that a client gets in the middle of a stream.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        router: Router,
        *,
        encode_error: Callable[[RouteSwitchError], bytes],
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._router = router
        self._encode_error = encode_error
        self._ids = TraceIds()
        self._deadline, self._first_byte = TimerOf(), TimerOf()
        self._attempts = Attempts(router)

    def begin(self, request: ChatRequest, caller: Caller = ANYBODY) -> Journey:
        """A fresh journey with its trace id."""
        return Journey(request, caller, self._ids.new(), time.time(), time.perf_counter())

    async def complete(self, journey: Journey) -> bytes:
        """Answer in one piece, in the provider's own bytes unless the version has an output format.

        Raises RouteSwitchError; a trace is written in any case.
        """
        served = self._source.served
        ending = Ending()
        try:
            self._choose(served, journey)
            with Limit(self._deadline.of(served.timeout_s)):
                patience = self._first_byte.of(served.first_byte_timeout_s)
                body, answer = await self._attempts.first_answer(served, journey, _complete, patience=patience)
            choice = answer.choices[0]
            ending.response, ending.finish_reason = choice.message, choice.finish_reason
            ending.response_model, ending.outcome = answer.model, outcome_of(choice.finish_reason)
            ending.n_bytes = len(body)
            ending.usage = counted_usage(answer.usage) or estimated_usage(
                input_characters=_characters(journey.rendered),
                output_characters=sum(generated_characters(one.message) for one in answer.choices),
            )
            if journey.output is not OutputFormat.BARE:
                body, ending.parsed = delivered_completion(body, journey.output)
            self._close_attempt(journey, ending)
            return body
        except BaseException as error:
            error = _meaning(error, journey)
            ending.outcome, ending.error_code = outcome_of_error(error)
            raise error from error.__cause__
        finally:
            await self._record(served, journey, ending)

    async def stream(self, journey: Journey, reader: Reader) -> None:
        """Answer as a stream. Until its first chunk another combination can take over; then `reader.begin` is called.

        A break after that becomes an error event without `[DONE]`, and no exception. Raises RouteSwitchError before.
        """
        served = self._source.served
        ending = Ending()
        opened: OpenedStream | None = None
        held: HeldReader | None = None
        wants_usage = journey.request.include_usage

        async def open_one(provider: ChatProvider, call: ProviderCall, name: str) -> OpenedStream:
            return await open_once(provider, call, name=name, wants_usage=wants_usage)

        try:
            self._choose(served, journey)
            with Limit(self._deadline.of(served.timeout_s)):
                opened = await self._attempts.first_answer(served, journey, open_one)
            if journey.output is not OutputFormat.BARE:
                reader = held = HeldReader(reader, journey.output)
            ending.first_token_s = journey.elapsed_s
            ending.outcome = Outcome.CLIENT_CANCELLED  # until we know better: nothing but the client can end it now
            patience = Patience(budget_s=served.timeout_s - ending.first_token_s, client_s=served.client_stall_s)
            try:
                await self._carry(opened, ending, journey, reader, patience)
            finally:
                self._close_attempt(journey, ending, after_s=patience.provider_s)
        except BaseException as error:
            error = _meaning(error, journey)
            if ending.first_token_s is None or not isinstance(error, asyncio.CancelledError):
                ending.outcome, ending.error_code = outcome_of_error(error)
            else:
                ending.error_code = ending.error_code or "client_cancelled"
            raise error from error.__cause__
        finally:
            if held is not None:
                ending.first_token_s, ending.parsed = held.sent_after_s, held.parsed
            if opened is not None:
                answer = opened.answer
                ending.response, ending.finish_reason = answer.message(), answer.finish_reason
                ending.response_model, ending.n_bytes = answer.model, answer.output_characters
                ending.usage = counted_usage(answer.usage) or estimated_usage(
                    input_characters=_characters(journey.rendered), output_characters=ending.n_bytes
                )
            await self._record(served, journey, ending)

    async def _carry(
        self,
        opened: OpenedStream,
        ending: Ending,
        journey: Journey,
        reader: Reader,
        patience: Patience,
    ) -> None:
        """SSE bytes for the client: chunks as they came, then `[DONE]`, or an error event if the answer broke off."""
        assert journey.combination is not None
        provider = journey.combination.provider
        relay = Relay(opened, reader, wants_usage=journey.request.include_usage, provider=provider)
        failure: BaseException | None = None
        try:
            with patience:
                try:
                    await relay.run(journey, patience)
                    ending.outcome = outcome_of(opened.answer.finish_reason)
                    last = b"data: [DONE]\n\n"
                except ProviderError as error:
                    failure = error
                    ending.outcome, ending.error_code = Outcome.PROVIDER_CUT, error.code
                    last = b"data: " + self._encode_error(error) + b"\n\n"
                patience.on_client()
                await (reader.end if failure is None else reader.fail)(relay.unsent + last)
        except TimeoutError as late:
            failure = late
            error = ProviderTimeoutError("The request's deadline passed.", provider=provider)
            ending.outcome, ending.error_code = Outcome.PROVIDER_CUT, error.code
            await reader.fail(b"data: " + self._encode_error(error) + b"\n\n")
        except BaseException as other:
            failure = other
            if (stopped := overtaken(other)) is not None:
                ending.outcome, ending.error_code = Outcome.PROVIDER_CUT, stopped.code
                await reader.fail(b"data: " + self._encode_error(stopped) + b"\n\n")
                return
            if isinstance(other, ClientStalledError):
                ending.outcome, ending.error_code = Outcome.CLIENT_CANCELLED, other.code
            raise
        finally:
            await _leave(opened, failure)

    async def refuse(self, error: RouteSwitchError, caller: Caller, *, started: float) -> str:
        """Account for a request that never became a journey. Nothing of it is kept but its count. Returns an id."""
        trace_id = self._ids.new()
        trace = Trace(
            trace_id=trace_id,
            started_at=time.time(),
            request_model="",
            outcome=Outcome.REJECTED,
            stream=False,
            latency_s=time.perf_counter() - started,
            usage=Usage.unknown(),
            error_code=error.code,
            key_id=caller.admission.key_id,
            store=StoreMode.NONE,
        )
        await self._recorder.record(trace, caller.admission)
        return trace_id

    def _choose(self, served: Served, journey: Journey) -> None:
        request, admission = journey.request, journey.caller.admission
        try:
            pool = resolve(served.catalog, request)
        except ModelNotFoundError as error:
            if admission.key_id is None:
                raise
            raise NotForThisKeyError(error) from None
        journey.pool = pool
        template_id = pool.template.template_id if pool.template is not None else None
        for combination in pool.combinations:
            admission.check(template_id=template_id, model=combination.model)
        if pool.reserve:
            journey.barred = _barred(pool.reserve, admission, template_id=template_id)
        journey.decision = self._router.choose(
            pool.key, pool.combinations, draw=random.random(), now_s=time.monotonic()
        )

    def _close_attempt(self, journey: Journey, ending: Ending, *, after_s: float = 0.0) -> None:
        """Tell the router how the attempt that answered went in the end, `after_s` of the provider's time later."""
        assert journey.combination is not None
        blameless = ending.outcome is Outcome.CLIENT_CANCELLED or ending.error_code == ShuttingDownError.code
        succeeded = None if blameless else ending.outcome in _SUCCESSES
        latency_s = journey.attempts[-1].latency_s + after_s
        self._router.ended(
            journey.combination.combination_id,
            Result(succeeded, latency_s=latency_s),
            now_s=time.monotonic(),
            mark=journey.mark,
        )

    async def _record(self, served: Served, journey: Journey, ending: Ending) -> None:
        cost_usd = self._recorder.cost_usd(journey.combination, ending.usage)
        trace = journey.trace(ending, cost_usd=cost_usd, default_store=served.store)
        await self._recorder.record(trace, journey.caller.admission)


async def _leave(opened: OpenedStream, failure: BaseException | None) -> None:
    if failure is None:
        await opened.context.__aexit__(None, None, None)
    else:
        await opened.context.__aexit__(type(failure), failure, failure.__traceback__)


async def _complete(provider: ChatProvider, call: ProviderCall, name: str) -> tuple[bytes, WireCompletion]:
    return await complete_once(provider, call, name=name)


def _barred(reserve: Sequence[Combination], admission: Admission, *, template_id: str | None) -> frozenset[str]:
    """Those that nobody asked for and that the key may not ask, such as ones without a price when it has a budget."""
    barred: set[str] = set()
    for combination in reserve:
        try:
            admission.check(template_id=template_id, model=combination.model)
        except ForbiddenError:
            barred.add(combination.combination_id)
    return frozenset(barred)


def _meaning(error: BaseException, journey: Journey) -> BaseException:
    if not isinstance(error, TimeoutError):
        return overtaken(error) or error
    provider = journey.combination.provider if journey.combination is not None else "the provider"
    return ProviderTimeoutError(f"{provider} did not answer before the request's deadline.", provider=provider)


def _characters(messages: Sequence[Message]) -> int:
    return sum(map(text_length, messages))
