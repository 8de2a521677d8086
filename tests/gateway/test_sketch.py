"""Percentiles out of a sketch are never further off than it says, whatever was measured and however it was added up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.sketch import LONGEST_S, RELATIVE_ERROR, SHORTEST_S, Sketch

durations = st.floats(SHORTEST_S * 1.001, LONGEST_S) | st.floats(0.001, 30.0)
ROUNDING = 1e-9


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    sketch.add_all(values)
    return sketch


@given(st.lists(durations, min_size=1, max_size=300), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_every_percentile_is_within_the_stated_error(values: list[float], shares: list[float]) -> None:
    shares.sort()
    for share, found in zip(shares, sketch_of(values).quantiles(shares), strict=True):
        true = sorted(values)[math.floor(share * (len(values) - 1))]
        assert found is not None
        assert abs(found - true) <= (RELATIVE_ERROR + ROUNDING) * true


@given(st.lists(durations, max_size=100), st.lists(durations, max_size=100))
def test_sketches_add_up_to_the_sketch_of_everything(first: list[float], second: list[float]) -> None:
    merged, whole = sketch_of(first), sketch_of([*first, *second])
    merged.merge(sketch_of(second))
    assert (merged.buckets, merged.count, merged.max_s) == (whole.buckets, whole.count, whole.max_s)
    assert merged.sum_s == pytest.approx(whole.sum_s)


def test_adding_up_leaves_the_other_sketch_alone() -> None:
    total, part = Sketch(), sketch_of([0.5])
    total.merge(part)
    total.add_all([0.5])
    assert (part.count, list(part.buckets.values())) == (1, [1])


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_whatever_is_measured_keeps_the_sketch_usable(values: list[float]) -> None:
    sketch = sketch_of(values)
    sketch.add_all([0.25])
    assert sketch.count == len(values) + 1 == sketch.n_instant + sum(sketch.buckets.values())
    assert math.isfinite(sketch.sum_s)
    assert 0.25 <= sketch.max_s <= LONGEST_S
    assert all(found is not None and 0 <= found <= LONGEST_S for found in sketch.quantiles((0.0, 0.5, 1.0)))


def test_the_number_of_buckets_has_a_bound() -> None:
    sketch = sketch_of([SHORTEST_S * 1.0005**i for i in range(60_000)])
    assert sketch.max_s == LONGEST_S
    assert len(sketch.buckets) <= 1_400


def test_nothing_measured_is_no_percentile_and_no_mean() -> None:
    assert Sketch().quantiles((0.5, 0.99)) == [None, None]
    assert Sketch().mean() is None


@given(st.lists(durations, max_size=100), st.lists(st.floats(0.001, 100), min_size=1, max_size=6, unique=True))
def test_cumulative_counts_are_right_except_within_the_error_of_a_bound(
    values: list[float], bounds: list[float]
) -> None:
    bounds.sort()
    counts = sketch_of(values).cumulative(bounds)
    for bound, count in zip(bounds, counts, strict=True):
        error = RELATIVE_ERROR + ROUNDING
        assert sum(v <= bound * (1 - error) for v in values) <= count <= sum(v <= bound * (1 + error) for v in values)
    assert counts == sorted(counts)
