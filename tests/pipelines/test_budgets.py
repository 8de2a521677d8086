"""What may be spent is never exceeded, and what fits is not refused: tokens and dollars, call by call."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, ScriptedReply
from rs_gateway.domain.chat import JsonObject, Message, ProviderCall
from rs_gateway.domain.errors import (
    ProviderError,
    ProviderGarbageError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)
from rs_pipelines.answers import AnswerCache
from rs_pipelines.cached_model import CachedModel, CallLimits, ModelIdentity, UnboundedAnswerError, UnpricedModelError
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.call_sizes import CallSize, MeasuredCalls, size_bound
from rs_pipelines.pacing import Pace
from rs_pipelines.spending import Allowance
from tests.pipelines.parcels import cache_at

MOST_OUT = 50


def asked(n: int) -> list[Message]:
    return [{"role": "user", "content": f"question {n}"}]


def completion(text: str, *, tokens: tuple[int, int] | None) -> bytes:
    usage = None if tokens is None else {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    message = {"role": "assistant", "content": text}
    return msgspec.json.encode({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


def counted(tokens_in: int, tokens_out: int) -> ScriptedReply:
    return ScriptedReply("", body=completion("x", tokens=(tokens_in, tokens_out)))


def metered(
    chat: ScriptedChat,
    budget: CallBudget,
    *,
    parameters: JsonObject | None = None,
    attempts: int = 1,
    usd_per_token: float = 0.0,
    pace: Pace | None = None,
) -> CachedModel:
    limits = CallLimits(max_concurrency=8, base_delay_s=0.0, max_attempts=attempts)
    identity = ModelIdentity("scripted", "tiny", {"max_tokens": MOST_OUT} if parameters is None else parameters)
    return CachedModel(
        chat,
        identity,
        budget.cache,
        rng=Random(1),
        limits=limits,
        budget=budget,
        cost=lambda n_in, n_out: usd_per_token * ((n_in or 0) + (n_out or 0)),
        pace=pace,
    )


async def ask_all(model: CachedModel, count: int) -> int:
    """How many of so many questions, asked all at once, were answered."""
    answered = 0

    async def one(n: int) -> None:
        nonlocal answered
        try:
            await model.answer(asked(n))
        except (BudgetExhaustedError, ProviderError):
            return
        answered += 1

    async with anyio.create_task_group() as group:
        for n in range(count):
            group.start_soon(one, n)
    return answered


BOUND = size_bound(asked(10), {"max_tokens": MOST_OUT}).input_tokens + MOST_OUT


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 5))
def test_no_text_has_more_tokens_than_its_bound(texts: list[str], most: int, n: int) -> None:
    messages: list[Message] = [{"role": "user", "content": text} for text in texts]
    bound = size_bound(messages, {"max_completion_tokens": most, "n": n})
    assert bound.input_tokens >= sum(len(text.encode()) for text in texts)
    assert bound.output_tokens == most * n


def test_tools_and_images_count_and_what_is_no_limit_is_none() -> None:
    plain = size_bound(asked(1), {})
    assert plain.output_tokens is None
    assert [size_bound(asked(1), {"max_tokens": n}).output_tokens for n in (True, -5, "9", None)] == [None] * 4
    assert size_bound(asked(1), {"max_tokens": 9, "max_completion_tokens": 20}).output_tokens == 20
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 500}}]
    assert size_bound(asked(1), {"tools": tools}).input_tokens > plain.input_tokens + 500
    image = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    assert size_bound([{"role": "user", "content": image}], {}).input_tokens > 50_000


def test_what_calls_took_replaces_the_bound_where_it_was_too_low_and_foretells_the_next() -> None:
    bound = CallSize(100, 50)
    assert MeasuredCalls().expected(bound) == MeasuredCalls().largest(bound) == bound
    modest = MeasuredCalls().with_call(bound, 25, 10)
    assert (modest.largest(bound), modest.expected(CallSize(200, 50))) == (bound, CallSize(50, 10))
    greedy = modest.with_call(bound, 150, 400)
    assert greedy.largest(bound) == CallSize(150, 400)


def test_a_failure_that_may_be_billed_is_foreseen_with_all_that_it_may_take_and_a_refusal_is_not() -> None:
    bound = CallSize(100, 50)
    modest = MeasuredCalls().with_call(bound, 20, 10).with_answer().with_answer()
    assert modest.with_failure(billed=False).expected(bound) == modest.expected(bound) == CallSize(20, 10)
    assert modest.with_failure(billed=True).expected(bound) == CallSize(20 + 50, 10 + 25)


def test_how_often_an_answer_has_to_be_asked_for_is_measured(tmp_path: Path) -> None:
    busy = ProviderOverloadedError("busy", provider="scripted", status=500)
    model = metered(ScriptedChat(["x", busy, "x", "x"]), CallBudget(cache_at(tmp_path), "study"), attempts=2)
    assert model.calls_per_answer == 1
    for n in (1, 2, 2):
        anyio.run(model.answer, asked(n))
    assert model.calls_per_answer == 1.5


def test_a_model_that_nobody_has_a_price_for_is_not_asked_under_a_budget_of_dollars(tmp_path: Path) -> None:
    chat = ScriptedChat(["x"])
    identity = ModelIdentity("scripted", "tiny", {"max_tokens": MOST_OUT})
    budget = CallBudget(cache_at(tmp_path), "study", Allowance(usd=1.0))
    model = CachedModel(chat, identity, budget.cache, rng=Random(1), budget=budget)
    with pytest.raises(UnpricedModelError, match="nobody knows what scripted/tiny costs"):
        anyio.run(model.answer, asked(1))
    assert chat.calls == []


@settings(max_examples=60)
@given(
    limit=st.integers(0, 6 * BOUND),
    in_usd=st.booleans(),
    outputs=st.lists(st.sampled_from(["short", "full", "uncounted", "garbage", "refused", "late"]), min_size=1),
)
def test_a_budget_is_never_overdrawn_whatever_comes_back(limit: int, in_usd: bool, outputs: list[str]) -> None:
    billed = 0

    def reply(call: ProviderCall) -> Reply:
        nonlocal billed
        kind = outputs[len(chat.calls) % len(outputs)]
        whole = size_bound(call.messages, {}).input_tokens + MOST_OUT
        if kind == "refused":
            return ProviderOverloadedError("busy", provider="scripted", status=429)
        billed += {"short": 9}.get(kind, whole)
        if kind == "late":
            return ProviderTimeoutError("late", provider="scripted")
        if kind == "garbage":
            return ScriptedReply("", body=b"<html>")
        if kind == "uncounted":
            return ScriptedReply("", body=completion("x", tokens=None))
        return counted(4, 5) if kind == "short" else counted(whole - MOST_OUT, MOST_OUT)

    chat = ScriptedChat(reply)
    usd_per_token = 0.001
    allowance = Allowance(usd=limit * usd_per_token + 1e-9) if in_usd else Allowance(tokens=limit)
    with TemporaryDirectory() as folder:
        cache = AnswerCache(Path(folder) / "answers.db")
        try:
            budget = CallBudget(cache, "study", allowance)
            anyio.run(ask_all, metered(chat, budget, attempts=2, usd_per_token=usd_per_token), 12)
            spent = budget.spent
        finally:
            cache.close()
    assert billed <= limit
    assert billed <= spent.booked_tokens <= limit or spent.calls == 0


def test_calls_wait_for_the_bookings_of_others_so_that_all_that_fits_is_asked(tmp_path: Path) -> None:
    """Twenty calls of 10 tokens fit into 20 * 10, though each is booked with ten times as much."""
    budget = CallBudget(cache_at(tmp_path), "study", Allowance(tokens=19 * 10 + BOUND))
    assert anyio.run(ask_all, metered(ScriptedChat([counted(5, 5)]), budget), 20) == 20
    assert budget.spent.booked_tokens == 200
    with pytest.raises(BudgetExhaustedError, match=r"200 of \d+ tokens .* the next call may take \d+.*max_tokens"):
        anyio.run(metered(ScriptedChat(["x"]), budget).answer, asked(10_000_000_000))


def test_an_answer_that_nothing_limits_is_not_asked_for_under_a_budget_of_tokens(tmp_path: Path) -> None:
    chat = ScriptedChat(["x"])
    for allowance in (Allowance(tokens=10**9), Allowance(usd=10**9)):
        model = metered(chat, CallBudget(cache_at(tmp_path), "study", allowance), parameters={})
        with pytest.raises(UnboundedAnswerError, match=r"answer of scripted/tiny may be\. Give it `max_tokens`"):
            anyio.run(model.answer, asked(1))
    assert chat.calls == []
    model = metered(chat, CallBudget(cache_at(tmp_path), "study", Allowance(calls=1)), parameters={})
    assert anyio.run(model.answer, asked(1)).text == "x"


def test_a_provider_that_bills_more_than_it_was_allowed_is_booked_for_that_from_then_on(tmp_path: Path) -> None:
    budget = CallBudget(cache_at(tmp_path), "study", Allowance(tokens=5_000))
    model = metered(ScriptedChat([counted(10, 4_000)]), budget)
    anyio.run(model.answer, asked(1))
    with pytest.raises(BudgetExhaustedError):
        anyio.run(model.answer, asked(2))


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (ProviderTimeoutError("late", provider="scripted"), True),
        (ProviderTimeoutError("no connection", provider="scripted", sent=False), False),
        (ProviderUnreachableError("broke", provider="scripted"), True),
        (ProviderUnreachableError("no connection", provider="scripted", sent=False), False),
        (ProviderOverloadedError("busy", provider="scripted", status=429), False),
        (ProviderOverloadedError("late", provider="scripted", status=504), True),
        (ProviderGarbageError("what", provider="scripted", status=200), True),
    ],
    ids=str,
)
def test_what_may_have_been_billed_stays_booked(tmp_path: Path, error: ProviderError, stays: bool) -> None:
    budget = CallBudget(cache_at(tmp_path), "study", Allowance(tokens=10_000))
    with pytest.raises(type(error)):
        anyio.run(metered(ScriptedChat([error]), budget).answer, asked(1))
    assert budget.spent.calls == 1
    assert (budget.spent.booked_tokens > 0) == stays


def test_a_call_that_is_cancelled_while_it_waits_for_its_turn_was_not_made(tmp_path: Path) -> None:
    budget = CallBudget(cache_at(tmp_path), "study", Allowance(calls=5))

    class Never(Pace):
        def __init__(self) -> None:
            self.waiting = anyio.Event()

        async def turn(self) -> None:
            self.waiting.set()
            await anyio.sleep_forever()

    async def cancelled() -> None:
        pace = Never()
        async with anyio.create_task_group() as group:
            group.start_soon(metered(ScriptedChat(["x"]), budget, pace=pace).answer, asked(1))
            await pace.waiting.wait()
            assert budget.spent.calls == 1
            group.cancel_scope.cancel()

    anyio.run(cancelled)
    assert budget.spent.calls == 0


def test_a_spent_budget_says_so_before_the_call_waits_for_its_turn(tmp_path: Path) -> None:
    class NoTurns(Pace):
        def __init__(self) -> None:
            pass

        async def turn(self) -> None:
            raise AssertionError("a call that cannot be paid waited for its turn")

    budget = CallBudget(cache_at(tmp_path), "study", Allowance(calls=0))
    with pytest.raises(BudgetExhaustedError):
        anyio.run(metered(ScriptedChat(["x"]), budget, pace=NoTurns()).answer, asked(1))
