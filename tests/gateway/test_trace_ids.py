from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from rs_gateway.trace_ids import TraceIds


def test_an_id_is_a_ulid_of_this_moment() -> None:
    before = ULID().milliseconds
    made = ULID.from_str(TraceIds().new())
    assert before <= made.milliseconds <= ULID().milliseconds


@given(st.integers(min_value=2, max_value=2000))
def test_ids_are_all_different_and_26_characters_long(count: int) -> None:
    ids = TraceIds()
    made = [ids.new() for _ in range(count)]
    assert len(set(made)) == count
    assert {len(trace_id) for trace_id in made} == {26}
