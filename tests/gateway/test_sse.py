"""Server-sent events: the same payloads come out, wherever the network cuts the bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.sse import SseDecoder

payloads = st.lists(
    st.text(alphabet=st.characters(blacklist_characters="\r\n", codec="utf-8"), min_size=1)
    .map(lambda s: s.strip() or "x")
    .filter(lambda s: s != "[DONE]"),
    max_size=5,
)


@given(payloads, st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(0, 200)), st.booleans())
def test_payloads_survive_any_cut_and_any_line_end(
    texts: list[str], newline: str, cuts: list[int], with_comments: bool
) -> None:
    events = [f": ping{newline}{newline}"] if with_comments else []
    events += [f"id: 1{newline}event: x{newline}data: {text}{newline}{newline}" for text in texts]
    events.append(f"data: [DONE]{newline}{newline}")
    wire = "".join(events).encode()
    edges = sorted({0, len(wire), *(c for c in cuts if c < len(wire))})
    decoder = SseDecoder()
    got = [p for a, b in itertools.pairwise(edges) for p in decoder.feed(wire[a:b])]
    assert got == [*(text.encode() for text in texts), b"[DONE]"]
    assert decoder.done


def test_data_on_several_lines_is_one_payload() -> None:
    assert SseDecoder().feed(b"data: {\ndata: }\n\n") == [b"{\n}"]


def test_nothing_after_the_end_counts() -> None:
    assert SseDecoder().feed(b"data: [DONE]\n\ndata: {}\n\n") == [b"[DONE]"]


@pytest.mark.parametrize("junk", [b"<html>\n", b"{}\n", b"dat: x\n"])
def test_what_came_before_a_line_that_is_no_event_counts_and_nothing_after_it(junk: bytes) -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: {}\n\n" + junk + b"data: [DONE]\n\n") == [b"{}"]
    assert decoder.malformed
    assert not decoder.done


@given(st.lists(st.sampled_from([b"data: {}\n\n", b"data:  \n\n", b"data: [DONE]\n\n", b": x\n\n", b"data: a\rb\n\n"])))
def test_events_one_by_one_are_what_they_are_together(events: list[bytes]) -> None:
    together, apart = SseDecoder(), SseDecoder()
    assert [p for event in events for p in apart.feed(event)] == together.feed(b"".join(events))
    assert apart.done == together.done
