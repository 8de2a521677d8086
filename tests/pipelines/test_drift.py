"""Whether live scores have fallen: never by what is only better, rarely by chance, surely by a collapse."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipelines.drift import SIGNIFICANCE, newest_shift

scores = st.lists(st.floats(0, 1), max_size=120)


@settings(max_examples=40)
@given(scores, st.integers(20, 40))
def test_a_shift_needs_two_full_blocks_and_says_what_it_compared(values: list[float], window: int) -> None:
    shift = newest_shift(values, window=window)
    if len(values) < 2 * window:
        assert shift is None
        return
    assert shift is not None
    assert shift.n_before + shift.n_recent == len(values) - len(values) % window
    assert 0 < shift.p_value <= 1
    assert -1 <= shift.drop <= 1


@settings(max_examples=40)
@given(scores, st.lists(st.floats(0, 1), max_size=19), st.integers(20, 40))
def test_scores_that_fill_no_block_change_nothing(values: list[float], more: list[float], window: int) -> None:
    whole = values[: len(values) - len(values) % window]
    assert newest_shift(whole, window=window) == newest_shift([*whole, *more], window=window)


@settings(max_examples=40)
@given(scores, st.integers(20, 40), st.floats(0.01, 0.5))
def test_what_did_not_fall_by_the_least_drop_is_no_drift(values: list[float], window: int, least: float) -> None:
    shift = newest_shift(values, window=window)
    if shift is not None and shift.is_drift(min_drop=least):
        assert shift.recent <= shift.before - least
        assert shift.p_value <= SIGNIFICANCE


@given(st.integers(20, 60), st.integers(1, 4))
@settings(max_examples=20)
def test_a_collapse_is_drift_and_a_recovery_is_none(window: int, blocks: int) -> None:
    fell = newest_shift([1.0] * window * blocks + [0.0] * window, window=window)
    rose = newest_shift([0.0] * window * blocks + [1.0] * window, window=window)
    assert fell is not None and fell.is_drift(min_drop=0.5)
    assert rose is not None and not rose.is_drift(min_drop=0.01)


def test_scores_that_stay_as_they_are_seldom_raise_an_alarm() -> None:
    alarms = 0
    for seed in range(100):
        rng = Random(seed)
        shift = newest_shift([float(rng.random() < 0.8) for _ in range(200)], window=50)
        alarms += shift is not None and shift.is_drift(min_drop=0.01)
    assert alarms <= 4  # more would happen to an honest test once in 300 times


def test_a_fall_from_nine_to_seven_in_ten_is_found_in_a_hundred_scores() -> None:
    rng = Random(1)
    values = [float(rng.random() < 0.9) for _ in range(300)] + [float(rng.random() < 0.7) for _ in range(100)]
    shift = newest_shift(values, window=100)
    assert shift is not None and shift.is_drift(min_drop=0.05)
