"""Getting an answer: the chosen combination and its retries, then each fallback with its own prompt version."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from rs_gateway.adapters.shared_timer import Limit, SharedTimer
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.combinations import Combination
from rs_gateway.domain.errors import (
    InvalidRequestError,
    MissingVariablesError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    RateLimitedError,
    RouteSwitchError,
)
from rs_gateway.domain.health import Result
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.pools import Pool
from rs_gateway.domain.ports import ChatProvider
from rs_gateway.domain.rendering import render_messages
from rs_gateway.domain.router import Router
from rs_gateway.domain.traces import Attempt
from rs_gateway.journey import Journey
from rs_gateway.retries import Backoff, wait_for_turn
from rs_gateway.serving import Served
from rs_gateway.shutdown import cancellation_code

_T = TypeVar("_T")


class Attempts:
    """Asks providers on behalf of journeys."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._backoff = Backoff(draw=random.random)

    async def first_answer(
        self,
        served: Served,
        journey: Journey,
        ask: Callable[[ChatProvider, ProviderCall, str], Awaitable[_T]],
        *,
        patience: SharedTimer | None = None,
    ) -> _T:
        """The first usable answer. The answering combination is `started` at the router: the caller ends it.

        Args:
            patience: how long one attempt may take as long as somebody else is left to be asked; None: the deadline.
        Raises:
            RouteSwitchError: the last failure, when nobody answered; or a refusal that nobody else could mend.
        """
        pool, decision = journey.pool, journey.decision
        assert pool is not None and decision is not None
        order = [pool.members[c] for c in (decision.chosen, *decision.fallbacks) if c in pool.members]
        if journey.barred:
            order = [c for c in order if c.combination_id not in journey.barred]
        # Where nobody should be asked, everybody may be: the decision stands, and so do its fallbacks.
        regardless = not self._router.all_sound and not any(map(self._may_try, order))
        failure: RouteSwitchError | None = None
        for combination in order:
            last_resort = combination is order[-1]
            if failure is not None and journey.elapsed_s >= served.timeout_s:
                break
            if not last_resort and not regardless and not self._may_try(combination):
                continue
            try:
                call = _render(served, journey, pool, combination)
            except MissingVariablesError:
                if failure is None:
                    raise
                continue  # a fallback whose version needs more than the client gave cannot help
            for attempt in range(served.max_retries + 1):
                try:
                    if served.rate_limits:
                        journey.waited_s += await wait_for_turn(
                            served.rate_limits.get(combination.provider),
                            provider=combination.provider,
                            left_s=served.timeout_s - journey.elapsed_s,
                            sleep=asyncio.sleep,
                        )
                    if attempt or journey.attempts:
                        call = replace(call, timeout_s=max(0.001, served.timeout_s - journey.elapsed_s))
                    return await self._ask(served, journey, call, ask, None if last_resort else patience)
                except RateLimitedError as error:
                    failure = failure or error
                    break
                except ProviderError as error:
                    if isinstance(error, ProviderRefusedError) and _is_mendable_elsewhere(error):
                        failure = failure or error
                        break
                    failure = error
                    if not error.retryable:
                        raise
                    pause_s = self._backoff.pause_s(attempt, retry_after_s=error.retry_after_s)
                    out_of_time = journey.elapsed_s + pause_s >= served.timeout_s
                    told_to_wait = self._backoff.is_told_to_wait(error.retry_after_s)
                    # Another wait as long as this one would leave no time for anybody else.
                    too_slow = isinstance(error, ProviderTimeoutError)
                    if attempt == served.max_retries or out_of_time or _is_out_of_quota(error):
                        break
                    if (told_to_wait or too_slow) and not last_resort:
                        break
                    if not last_resort and not regardless and not self._may_try(combination):
                        break
                    await asyncio.sleep(pause_s)
                    journey.waited_s += pause_s
        assert failure is not None
        raise failure

    def _may_try(self, combination: Combination) -> bool:
        return self._router.may_try(combination.combination_id, now_s=time.monotonic())

    async def _ask(
        self,
        served: Served,
        journey: Journey,
        call: ProviderCall,
        ask: Callable[[ChatProvider, ProviderCall, str], Awaitable[_T]],
        patience: SharedTimer | None,
    ) -> _T:
        combination = journey.combination
        assert combination is not None
        journey.mark = self._router.started(combination.combination_id)
        began = time.perf_counter()
        code, status = "internal", None
        succeeded: bool | None = None
        try:
            asked = ask(served.providers[combination.provider], call, combination.provider)
            answer = await (asked if patience is None else _within(patience, asked, provider=combination.provider))
            code = None
            return answer
        except ProviderError as error:
            code, status = error.code, error.status
            blameless = isinstance(error, ProviderRefusedError) and not error.is_about_us
            succeeded = None if blameless else False
            raise
        except asyncio.CancelledError as cancelled:
            # Either the client left, or the request's deadline passed while this provider was thinking.
            late = journey.elapsed_s >= served.timeout_s
            code, succeeded = ("provider_timeout", False) if late else (cancellation_code(cancelled), None)
            raise
        finally:
            took_s = time.perf_counter() - began
            journey.waited_s += took_s
            if code is not None:
                self._router.ended(
                    combination.combination_id,
                    Result(succeeded, latency_s=took_s),
                    now_s=time.monotonic(),
                    mark=journey.mark,
                )
            journey.attempts.append(
                Attempt(
                    combination.combination_id,
                    combination.provider,
                    combination.model,
                    journey.version,
                    code,
                    status if code else 200,
                    took_s,
                )
            )


def _is_out_of_quota(error: ProviderError) -> bool:
    """OpenAI says so with the status of a rate limit, but no wait within a request mends it."""
    return isinstance(error, ProviderOverloadedError) and error.upstream_code == "insufficient_quota"


async def _within(patience: SharedTimer, asked: Awaitable[_T], *, provider: str) -> _T:
    """Raises ProviderTimeoutError when there is no answer in time."""
    try:
        with Limit(patience):
            return await asked
    except TimeoutError as error:
        raise ProviderTimeoutError(f"{provider} did not begin to answer in time.", provider=provider) from error


def _is_mendable_elsewhere(error: ProviderRefusedError) -> bool:
    """Whether another combination may accept the request that this one refused."""
    return error.is_about_us or error.upstream_code == "unsupported_parameter"


def _render(served: Served, journey: Journey, pool: Pool, combination: Combination) -> ProviderCall:
    request = journey.request
    version = pool.versions.get(combination.combination_id)
    messages = request.messages
    if version is not None and pool.template is not None:
        messages = render_messages(
            version.text, request.variables, request.messages, template_id=pool.template.template_id
        )
    if not request.messages and (version is None or version.text.user is None):
        raise InvalidRequestError("`messages` is empty and the prompt has no user text of its own.", param="messages")
    journey.combination, journey.rendered = combination, messages
    journey.version = version.number if version is not None else None
    journey.output = version.text.output if version is not None else OutputFormat.BARE
    parameters = {**combination.parameters, **request.parameters}
    if "max_completion_tokens" in request.parameters and "max_tokens" not in request.parameters:
        parameters.pop("max_tokens", None)  # our default must not contradict the client's own limit
    left_s = max(0.001, served.timeout_s - journey.elapsed_s)
    return ProviderCall(combination.model, messages, parameters, left_s, is_watched=True)
