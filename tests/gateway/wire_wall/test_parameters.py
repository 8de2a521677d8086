"""Everything that a client may send reaches the upstream, or is refused by name."""

from typing import Any

import pytest

from tests import upstream as wire
from tests.gateway.wire_wall.conftest import Wall, is_openais

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL, {**TOOL, "function": {**TOOL["function"], "name": "g"}}], "parallel_tool_calls": False},  # type: ignore[dict-item]
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [{"name": "f", "parameters": {}}], "function_call": "auto"},
        {"tools": [{"type": "custom", "custom": {"name": "sh", "format": {"type": "text"}}}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {}}}},
        {"n": 3},
        {"seed": 0},
        {"seed": 9223372036854775807},
        {"logprobs": True, "top_logprobs": 5},
        {"logit_bias": {"50256": -100}},
        {"stop": "\n"},
        {"stop": ["a", "b"]},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"temperature": 0, "top_p": 1, "presence_penalty": -0.5, "frequency_penalty": 0.1},
        {"user": "u-1", "safety_identifier": "s-1", "prompt_cache_key": "k-1"},
        {"reasoning_effort": "high", "verbosity": "low"},
        {"service_tier": "flex"},
        {"store": True},
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {"search_context_size": "low"}},
        {"a_parameter_of_next_year": {"deep": [1, None, 2.5, "x"]}},
        {"temperature": None, "stop": None, "tools": None},
    ],
    ids=lambda fields: "+".join(fields)[:40],
)
def test_a_parameter_is_forwarded_as_it_was(wall: Wall, fields: dict[str, Any]) -> None:
    sent = wall.sent(**fields)
    assert {name: sent[name] for name in fields} == fields


def test_metadata_is_forwarded_without_our_own_names(wall: Wall) -> None:
    assert wall.sent(metadata={"team": "blue", "user": "u-9"})["metadata"] == {"team": "blue", "user": "u-9"}


def test_numbers_keep_their_digits(wall: Wall) -> None:
    body = wall.body(wire.answers("x"))
    raw = b'{"model":"%s","messages":[{"role":"user","content":"hi"}],"seed":12345678901234567890,"x":1.10,"y":1e-7}'
    assert wall.post(raw % body["model"].encode()).status_code == 200
    sent = wall.asked(body["model"])[0]
    assert (sent["seed"], sent["x"], sent["y"]) == (12345678901234567890, 1.1, 1e-7)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "text"},
        {"role": "user", "content": "grüße 🎈 \u0000 \u2028"},
        {"role": "user", "content": [{"type": "text", "text": "a {b}"}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}],
        },
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f-1"}}]},
        {"role": "user", "content": [{"type": "a_part_of_next_year", "x": 1}]},
        {"role": "user", "content": "hi", "name": "jane"},
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "assistant", "content": None, "refusal": "no", "audio": {"id": "a-1"}},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "42"}]},
        {"role": "function", "name": "f", "content": "42"},
    ],
    ids=lambda message: f"{message['role']}-{str(message.get('content'))[:24]}",
)
def test_a_message_is_forwarded_as_it_was(wall: Wall, message: dict[str, Any]) -> None:
    assert wall.sent(messages=[{"role": "user", "content": "first"}, message])["messages"][1] == message


def test_a_system_message_of_the_clients_own_stays_beside_the_templates(wall: Wall) -> None:
    body = {
        "model": "support",
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "variables": {"customer_name": "Jordan"},
    }
    assert wall.gateway.ask(body).status_code == 200
    sent = wall.upstream.requests[-1]["messages"]
    assert [m["role"] for m in sent if m["content"] == "Be brief."] == ["developer"]
    assert sent[0]["content"] == "You help Jordan."


def test_stream_options_are_merged_with_what_the_gateway_asks_for(wall: Wall) -> None:
    body = wall.body(wire.answers("a b"), stream_options={"include_obfuscation": False})
    wall.gateway.stream(body)
    assert wall.asked(body["model"])[0]["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_a_plain_call_is_not_turned_into_a_stream(wall: Wall) -> None:
    sent = wall.sent(stream=False)
    assert sent.get("stream") in (None, False)
    assert "stream_options" not in sent


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": 7, "stream": True}, "stream_options"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"combination_id": []}}, "metadata.combination_id"),
        ({"variables": {"a": [1]}}, "variables.a"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"stream": 1}, "stream"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(wall: Wall, fields: dict[str, Any], param: str) -> None:
    response = wall.ask(**fields)
    assert response.status_code == 400
    assert is_openais(response)["param"] == param


@pytest.mark.parametrize(
    "name", ["authorization", "x-forwarded-host", "cookie", "x-custom-host", "x-portkey-custom-host"]
)
def test_a_clients_headers_do_not_reach_the_upstream(wall: Wall, name: str) -> None:
    response = wall.gateway.ask(wall.body(wire.answers("x")), headers={name: "127.0.0.1:9"})
    assert response.status_code == 200
    assert "127.0.0.1:9" not in str(wall.upstream.headers[-1])
