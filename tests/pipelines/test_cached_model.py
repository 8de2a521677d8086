"""A model asked through the cache: no answer is paid for twice, no budget exceeded, no failure hidden."""

from pathlib import Path
from random import Random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import JsonObject, Message, ProviderCall
from rs_gateway.domain.errors import (
    ProviderError,
    ProviderGarbageError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
)
from rs_pipelines.answers import ModelAnswer
from rs_pipelines.cached_model import CachedModel, CallLimits, ModelIdentity, parse_completion
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.spending import Allowance
from tests.pipelines.parcels import cache_at, model

QUESTION: list[Message] = [{"role": "user", "content": "What is the capital of France?"}]


def overloaded(retry_after_s: float | None = None) -> ProviderError:
    return ProviderOverloadedError("busy", provider="scripted", status=429, retry_after_s=retry_after_s)


def test_the_same_question_is_paid_for_once(tmp_path: Path) -> None:
    chat = ScriptedChat(["Paris"])
    asked = model(chat, cache_at(tmp_path))

    async def twice() -> tuple[ModelAnswer, ModelAnswer]:
        return await asked.answer(QUESTION), await asked.answer(QUESTION)

    first, second = anyio.run(twice)
    assert (first.text, first.cached, second.text, second.cached) == ("Paris", False, "Paris", True)
    assert (len(chat.calls), asked.calls_made, asked.cache_hits) == (1, 1, 1)
    assert (asked.input_tokens, asked.output_tokens) == (6, 1)


def test_equal_questions_at_the_same_time_are_one_call(tmp_path: Path) -> None:
    chat = ScriptedChat([ScriptedReply("Paris", latency_s=0.05)])
    asked = model(chat, cache_at(tmp_path))
    texts: list[str] = []

    async def ask() -> None:
        texts.append((await asked.answer(QUESTION)).text)

    async def together() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(ask)

    anyio.run(together)
    assert (texts, len(chat.calls), asked.cache_hits) == (["Paris"] * 10, 1, 9)


def test_whoever_waits_for_a_cancelled_caller_asks_again(tmp_path: Path) -> None:
    scopes: list[anyio.CancelScope] = []
    texts: list[str] = []

    def script(call: ProviderCall) -> Reply:
        if len(chat.calls) > 1:
            return "Paris"
        scopes[0].cancel()
        return ScriptedReply("late", latency_s=5)

    chat = ScriptedChat(script)
    asked = model(chat, cache_at(tmp_path))

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await asked.answer(QUESTION)

    async def waiting() -> None:
        texts.append((await asked.answer(QUESTION)).text)

    async def together() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(cancelled)
            group.start_soon(waiting)

    anyio.run(together)
    assert texts == ["Paris"]
    assert scopes[0].cancelled_caught


def test_another_salt_is_another_draw_with_another_seed(tmp_path: Path) -> None:
    chat = ScriptedChat(lambda call: str(call.parameters["seed"]))
    asked = model(chat, cache_at(tmp_path))

    async def twice() -> list[str]:
        return [(await asked.answer(QUESTION, salt=salt)).text for salt in (0, 7)]

    assert anyio.run(twice) == ["0", "7"]


def test_parameters_default_to_temperature_0_and_the_runs_seed() -> None:
    identity = ModelIdentity("p", "m", {"max_tokens": 9}, seed=3)
    assert identity.request_parameters(0) == {"temperature": 0, "seed": 3, "max_tokens": 9}


def test_a_parameter_set_to_none_is_not_sent_and_salts_still_differ() -> None:
    identity = ModelIdentity("p", "m", {"temperature": None, "seed": None})
    assert identity.request_parameters(5) == {}
    assert identity.key(QUESTION, 0) != identity.key(QUESTION, 5)


json_values = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=4))
def test_the_order_of_parameters_does_not_change_the_key(parameters: JsonObject) -> None:
    turned = dict(reversed(parameters.items()))
    assert ModelIdentity("p", "m", parameters).key(QUESTION, 0) == ModelIdentity("p", "m", turned).key(QUESTION, 0)


def test_everything_that_decides_an_answer_is_in_the_key() -> None:
    keys = {
        ModelIdentity("p", "m").key(QUESTION, 0),
        ModelIdentity("q", "m").key(QUESTION, 0),
        ModelIdentity("p", "n").key(QUESTION, 0),
        ModelIdentity("p", "m", {"max_tokens": 1}).key(QUESTION, 0),
        ModelIdentity("p", "m", seed=1).key(QUESTION, 0),
        ModelIdentity("p", "m").key([{"role": "user", "content": "?"}], 0),
    }
    assert len(keys) == 6


def test_a_retryable_failure_is_tried_again_and_each_try_is_a_call(tmp_path: Path) -> None:
    chat = ScriptedChat(["Paris"], fault=lambda n: overloaded() if n < 2 else None)
    asked = model(chat, cache_at(tmp_path))
    answer = anyio.run(asked.answer, QUESTION)
    assert (answer.text, asked.calls_made) == ("Paris", 3)


def test_garbage_is_tried_again(tmp_path: Path) -> None:
    chat = ScriptedChat([ScriptedReply("", body=b"<html>"), "Paris"])
    assert anyio.run(model(chat, cache_at(tmp_path)).answer, QUESTION).text == "Paris"


def test_the_last_error_is_raised_when_all_tries_failed_and_nothing_is_stored(tmp_path: Path) -> None:
    chat = ScriptedChat(["Paris"], fault=lambda n: overloaded() if n < 4 else None)
    asked = model(chat, cache_at(tmp_path))
    with pytest.raises(ProviderOverloadedError):
        anyio.run(asked.answer, QUESTION)
    assert asked.calls_made == 4
    assert anyio.run(asked.answer, QUESTION).cached is False


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    chat = ScriptedChat([ProviderRefusedError("no", provider="scripted", status=400)])
    asked = model(chat, cache_at(tmp_path))
    with pytest.raises(ProviderRefusedError):
        anyio.run(asked.answer, QUESTION)
    assert asked.calls_made == 1


def test_a_provider_that_asks_for_a_pause_gets_it(tmp_path: Path) -> None:
    chat = ScriptedChat(["Paris"], fault=lambda n: overloaded(0.2) if n == 0 else None)
    asked = model(chat, cache_at(tmp_path))

    async def timed() -> float:
        started = anyio.current_time()
        await asked.answer(QUESTION)
        return anyio.current_time() - started

    assert anyio.run(timed) >= 0.2


def test_a_provider_that_asks_for_a_pause_beyond_the_limit_is_not_waited_for(tmp_path: Path) -> None:
    chat = ScriptedChat(["Paris"], fault=lambda n: overloaded(3600) if n == 0 else None)
    with pytest.raises(ProviderOverloadedError):
        anyio.run(model(chat, cache_at(tmp_path)).answer, QUESTION)


def test_a_call_slower_than_its_deadline_times_out(tmp_path: Path) -> None:
    chat = ScriptedChat([ScriptedReply("Paris", latency_s=5)])
    limits = CallLimits(timeout_s=0.01, max_attempts=1)
    asked = CachedModel(chat, ModelIdentity("scripted", "tiny"), cache_at(tmp_path), rng=Random(0), limits=limits)
    with pytest.raises(ProviderTimeoutError):
        anyio.run(asked.answer, QUESTION)


def test_no_more_calls_run_at_once_than_allowed(tmp_path: Path) -> None:
    running, most = 0, 0

    class Counting(ScriptedChat):
        async def complete(self, call: ProviderCall) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await super().complete(call)
            finally:
                running -= 1

    asked = model(Counting([ScriptedReply("x", latency_s=0.005)]), cache_at(tmp_path), concurrency=3)

    async def together() -> None:
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(asked.answer, [{"role": "user", "content": str(n)}])

    anyio.run(together)
    assert most == 3


def test_the_call_that_exceeds_the_budget_is_not_made(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    chat = ScriptedChat(["x"])
    asked = model(chat, cache, budget=CallBudget(cache, "study", Allowance(calls=5)))
    refused = 0

    async def ask(n: int) -> None:
        nonlocal refused
        try:
            await asked.answer([{"role": "user", "content": str(n)}])
        except BudgetExhaustedError:
            refused += 1

    async def together() -> None:
        async with anyio.create_task_group() as group:
            for n in range(12):
                group.start_soon(ask, n)

    anyio.run(together)
    assert (len(chat.calls), refused) == (5, 7)


def test_cached_answers_are_free_even_when_the_budget_is_spent(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    asked = model(ScriptedChat(["x"]), cache, budget=CallBudget(cache, "study", Allowance(calls=1)))

    async def twice() -> ModelAnswer:
        await asked.answer(QUESTION)
        return await asked.answer(QUESTION)

    assert anyio.run(twice).cached


def test_every_answer_is_on_disk_before_it_is_returned(tmp_path: Path) -> None:
    asked = model(ScriptedChat(["Paris"]), cache_at(tmp_path))
    anyio.run(asked.answer, QUESTION)
    assert cache_at(tmp_path).get(asked.identity.key(QUESTION, 0)) is not None


@given(st.binary(max_size=60) | st.sampled_from([b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"null"]))
def test_garbage_is_called_garbage(body: bytes) -> None:
    with pytest.raises(ProviderGarbageError):
        parse_completion(body, provider="p")


def test_an_answer_in_parts_is_joined_and_absent_usage_is_unknown() -> None:
    body = b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}'
    assert parse_completion(body, provider="p") == ModelAnswer("ab", None, None, None)


def test_a_script_may_be_a_function_and_an_error_in_it_is_raised(tmp_path: Path) -> None:
    def script(call: ProviderCall) -> Reply:
        return ProviderRefusedError("no", provider="scripted", status=400)

    with pytest.raises(ProviderRefusedError):
        anyio.run(model(ScriptedChat(script), cache_at(tmp_path)).answer, QUESTION)
