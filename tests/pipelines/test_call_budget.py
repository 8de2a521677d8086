"""What one piece of work may spend: counted across processes and restarts, booked before a call, true after it."""

import subprocess
import sys
from pathlib import Path

import pytest

from rs_pipelines.answers import ModelAnswer
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.spending import Allowance, Booking, Spending
from tests.pipelines.parcels import cache_at

ANSWER = ModelAnswer("Paris", "stop", 12, 1)


def test_a_budget_allows_exactly_its_calls_and_remembers_them_across_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        CallBudget(cache_at(tmp_path), "study", Allowance(calls=3)).charge()
    budget = CallBudget(cache_at(tmp_path), "study", Allowance(calls=3))
    budget.charge()
    with pytest.raises(BudgetExhaustedError, match="all 3 model calls"):
        budget.charge()
    assert budget.spent == Spending(calls=3)


def test_a_budget_of_nothing_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(BudgetExhaustedError):
        CallBudget(cache_at(tmp_path), "study", Allowance(calls=0)).charge()


def test_tokens_are_booked_on_the_account_that_paid(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    CallBudget(cache, "study").charge()
    cache.put("key", ANSWER, account="study")
    assert CallBudget(cache, "study").spent == Spending(1, 12, 1, booked_tokens=13)
    assert CallBudget(cache, "other").spent == Spending()


_WRITER = """
import sys
from contextlib import closing
from pathlib import Path
from rs_pipelines.answers import AnswerCache, ModelAnswer
from rs_pipelines.call_budget import BudgetExhaustedError, CallBudget
from rs_pipelines.spending import Allowance
cache = AnswerCache(Path(sys.argv[1]))
budget = CallBudget(cache, "study", Allowance(calls=100))
for n in range(60):
    try:
        budget.charge()
    except BudgetExhaustedError:
        break
    cache.put(f"{sys.argv[2]}-{n}", ModelAnswer("text", "stop", 1, 1), account="study")
"""


def test_several_processes_share_a_cache_and_one_budget(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(n)]) for n in range(3)]
    assert [writer.wait(240) for writer in writers] == [0, 0, 0]
    assert CallBudget(cache_at(tmp_path), "study", Allowance(calls=100)).spent == Spending(
        100, 100, 100, booked_tokens=200
    )


def test_a_budget_of_tokens_holds_before_a_call_and_knows_the_real_counts_after_it(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    budget = CallBudget(cache, "study", Allowance(tokens=100))
    budget.charge(Booking(60))
    with pytest.raises(BudgetExhaustedError, match=r"60 of 100 tokens.*max_tokens"):
        budget.charge(Booking(60))
    cache.put("k", ModelAnswer("x", "stop", 20, 10), account="study", booked=Booking(60))
    budget.charge(Booking(60))
    assert budget.spent == Spending(2, 20, 10, booked_tokens=90)


def test_a_budget_of_dollars_holds_too_and_an_unanswered_call_costs_nothing(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    budget = CallBudget(cache, "study", Allowance(usd=0.01))
    budget.charge(Booking(10, 0.008))
    with pytest.raises(BudgetExhaustedError, match=r"0.008 of 0.01 USD.*max_cost_usd"):
        budget.charge(Booking(10, 0.008))
    cache.refund("study", Booking(10, 0.008))
    budget.charge(Booking(10, 0.008))
    assert budget.spent.calls == 2


@pytest.mark.parametrize(
    ("allowance", "setting"),
    [(Allowance(calls=5), "max_calls"), (Allowance(tokens=100), "max_tokens"), (Allowance(usd=0.1), "max_cost_usd")],
)
def test_a_refused_call_names_its_limit_even_if_another_call_gave_back_its_booking_since(
    tmp_path: Path, allowance: Allowance, setting: str
) -> None:
    cache = cache_at(tmp_path)
    cache.charge = lambda account, allowance, booking=None: False
    with pytest.raises(BudgetExhaustedError, match=setting):
        CallBudget(cache, "study", allowance).charge(Booking(60))


def test_an_answer_without_counts_costs_what_it_was_booked_with(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    budget = CallBudget(cache, "study", Allowance(tokens=100))
    budget.charge(Booking(60))
    cache.put("k", ModelAnswer("x", "stop", None, None), account="study", booked=Booking(60))
    assert budget.spent.booked_tokens == 60
