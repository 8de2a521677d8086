"""What a sample was drawn from is remembered, so that a study is not started for what it has seen."""

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rs_pipelines.known_examples import KnownExamples, mark_of
from rs_pipelines.occasions import count_new, due, enough_new
from rs_pipelines.sample import Split
from tests.pipelines.parcels import TARGET, parcel, parcels

numbers = st.sets(st.integers(0, 60))


@settings(max_examples=40)
@given(numbers, numbers, numbers)
def test_new_are_the_examples_that_came_and_those_whose_label_was_corrected(
    before: set[int], came: set[int], corrected: set[int]
) -> None:
    known = [parcel(n, Split.TRAIN) for n in sorted(before)]
    now = [replace(e, expected="other") if int(e.example_id[1:]) in corrected else e for e in known]
    now += [parcel(n, Split.TEST) for n in sorted(came - before)]
    with tempfile.TemporaryDirectory() as folder:
        store = KnownExamples(Path(folder))
        assert store.load(TARGET, "s") is None
        store.save(TARGET, "s", known)
        marks = store.load(TARGET, "s")
    assert marks == {mark_of(e) for e in known}
    found = count_new(now, known=marks or frozenset(), since="s", min_test_rows=30)
    assert found.new == len(came - before) + len(corrected & before)
    assert found.usable == len(before | came)


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_study_starts_at_the_threshold_and_not_before(n_known: int, threshold: int) -> None:
    rows = parcels().examples
    known = frozenset(mark_of(e) for e in rows[:n_known])
    found = count_new(rows, known=known, since="abc", min_test_rows=30)
    assert enough_new(found, min_new=threshold).start == (found.new >= threshold)


def test_without_rows_on_every_side_nothing_starts_and_it_says_what_is_missing() -> None:
    found = count_new(parcels(test=5).examples, known=frozenset(), since=None, min_test_rows=30)
    occasion = enough_new(found, min_new=10)
    assert not occasion.start
    assert "test has 5 rows and needs 30" in occasion.why
    assert not due(found, live_changed=True, since_last_s=None, interval_s=60).start


@given(st.floats(0, 1e6), st.floats(1, 1e6), st.booleans(), st.integers(0, 180))
def test_the_interval_must_be_over_and_something_new(
    since_last_s: float, interval_s: float, live_changed: bool, n_known: int
) -> None:
    rows = parcels().examples
    known = frozenset(mark_of(e) for e in rows[:n_known])
    found = count_new(rows, known=known, since="abc", min_test_rows=30)
    occasion = due(found, live_changed=live_changed, since_last_s=since_last_s, interval_s=interval_s)
    assert occasion.start == (since_last_s >= interval_s and (found.new > 0 or live_changed))
