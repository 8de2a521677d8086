"""Estimates of a candidate's gain, and the final choice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipelines.mipro.estimates import GainEstimates, final_choice
from rs_pipelines.mipro.records import LIVE, Candidate

ROWS = 60


def results(**means: float) -> dict[Candidate, dict[int, float | None]]:
    """`i1d2=0.5`: instruction 1 with demo set 2 is right on every other row."""
    found: dict[Candidate, dict[int, float | None]] = {}
    for name, mean in means.items():
        candidate = Candidate(int(name[1]), int(name[3]))
        found[candidate] = {row: float(int((row + 1) * mean) > int(row * mean)) for row in range(ROWS)}
    return found


def test_an_unseen_combination_of_two_good_halves_is_expected_to_be_good() -> None:
    estimates = GainEstimates(results(i0d0=0.2, i1d0=0.6, i0d1=0.6, i2d0=0.2, i0d2=0.2))
    assert estimates.gain(Candidate(1, 1)) > estimates.gain(Candidate(1, 2)) > estimates.gain(Candidate(2, 2))


def test_a_gain_on_few_rows_is_believed_less_than_on_many() -> None:
    few, many = results(i0d0=0.0, i1d1=1.0), results(i0d0=0.0, i1d1=1.0)
    few[Candidate(1, 1)] = dict.fromkeys(range(5), 1.0)
    assert GainEstimates(few).gain(Candidate(1, 1)) < GainEstimates(many).gain(Candidate(1, 1)) < 1


def test_missing_rows_count_neither_for_nor_against() -> None:
    whole = results(i0d0=0.5, i1d1=0.5)
    holed = results(i0d0=0.5, i1d1=0.5)
    holed[Candidate(1, 1)].update(dict.fromkeys(range(10)))
    assert GainEstimates(whole).gain(Candidate(1, 1)) == GainEstimates(holed).gain(Candidate(1, 1)) == 0


def test_the_best_fully_evaluated_candidate_is_chosen() -> None:
    found = results(i0d0=0.3, i1d1=0.8, i2d1=0.6)
    lengths = dict.fromkeys(found, 100)
    assert final_choice(found, eligible=list(found), lengths=lengths) == Candidate(1, 1)


def test_the_live_version_stays_when_nothing_is_better() -> None:
    found = results(i0d0=0.6, i1d1=0.5)
    lengths = {LIVE: 500, Candidate(1, 1): 10}
    assert final_choice(found, eligible=list(found), lengths=lengths) == LIVE


def test_between_equals_the_shorter_prompt_wins() -> None:
    found = results(i0d0=0.3, i1d1=0.7, i2d2=0.7)
    lengths = {LIVE: 10, Candidate(1, 1): 300, Candidate(2, 2): 200}
    assert final_choice(found, eligible=list(found), lengths=lengths) == Candidate(2, 2)


@settings(max_examples=40)
@given(
    st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.lists(st.sampled_from([0.0, 0.5, 1.0, None])))
)
def test_estimates_stay_within_what_scores_can_do(raw: dict[tuple[int, int], list[float | None]]) -> None:
    found = {Candidate(*key): dict(enumerate(values)) for key, values in raw.items()}
    found.setdefault(LIVE, dict.fromkeys(range(20), 0.5))
    estimates = GainEstimates(found)
    for candidate in found:
        assert -3 <= estimates.gain(candidate) <= 3
    assert estimates.gain(LIVE) == 0
