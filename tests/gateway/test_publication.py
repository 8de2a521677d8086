"""Rolling back: which version is gone back to, whatever the history holds."""

from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.publication import Action, Change, served_before


def entry(action: Action, version: int | None, *, model: str | None = None, previous: int | None = None) -> Change:
    return Change(action, version, model, "ann", "2026-01-01T00:00:00+00:00", "because", previous)


class Story:
    """A template that serves one model, and what happened to it."""

    def __init__(self) -> None:
        self.history = [entry(Action.REGISTER, 1)]
        self.live = 1

    def make_live(self, version: int) -> None:
        self.history.append(entry(Action.PUBLISH, version, previous=self.live))
        self.live = version

    def roll_back(self) -> int | None:
        before = served_before(self.history, model=None)
        if before is not None:
            self.history.append(entry(Action.ROLLBACK, before, previous=self.live))
            self.live = before
        return before


@given(st.lists(st.one_of(st.integers(1, 4), st.none()), max_size=12))
def test_rollbacks_undo_what_was_made_live_one_by_one_and_end_at_the_first_version(steps: list[int | None]) -> None:
    """A number is made live, None is a rollback; the model is a plain stack."""
    story, stack = Story(), [1]
    for version in steps:
        if version is None:
            if len(stack) > 1:
                stack.pop()
            story.roll_back()
        else:
            story.make_live(version)
            if stack[-1] != version:
                stack.append(version)
        assert story.live == stack[-1]
    for expected in reversed(stack[:-1]):
        assert story.roll_back() == expected
    assert story.roll_back() is None
    assert story.live == 1


@given(st.lists(st.integers(1, 4), max_size=8))
def test_what_happens_to_other_models_and_to_weights_says_nothing_of_this_one(
    others: list[int],
) -> None:
    history = [entry(Action.REGISTER, 1), entry(Action.PUBLISH, 2, previous=1)]
    history += [entry(Action.PUBLISH, version, model="other", previous=1) for version in others]
    history += [entry(Action.WEIGHT, None) for _ in others]
    assert served_before(history, model=None) == 1


def test_a_model_with_a_version_of_its_own_goes_back_to_the_common_one() -> None:
    history = [entry(Action.REGISTER, 3), entry(Action.PUBLISH, 5, model="gpt-4", previous=3)]
    assert served_before(history, model="gpt-4") == 3
    assert served_before(history, model=None) is None
