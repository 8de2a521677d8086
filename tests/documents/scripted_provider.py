"""Every provider that a document names, played by one scripted upstream on loopback."""

from typing import Any

from tests import upstream as wire
from tests.e2e.ticket_model import reply, right_answers
from tests.upstream import Exchange

DOWN = "mistral-small-latest"
"""A model that is never there: its fallback answers."""
_RIGHT = right_answers()
_ORDERS = {message: answer.split(" | ")[1] for message, answer in _RIGHT.items()}


async def scripted(exchange: Exchange) -> None:
    """Tickets are answered as `ticket_model` does, a judge's question by a grade; tools are called, inputs embedded."""
    body = exchange.body
    if body.get("model") == DOWN:
        await wire.fails(503)(exchange)
    elif "input" in body:
        await exchange.json(200, _embedding(body))
    elif body.get("tools"):
        await exchange.json(200, _tool_call(body))
    else:
        await _says(_answer(body["messages"]), exchange)


async def _says(text: str, exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        await wire.streams(text.split(" "))(exchange)
    else:
        await exchange.json(200, {**wire.completion(text), "model": f"{exchange.body['model']}-2024-07-18"})


def _answer(messages: list[dict[str, Any]]) -> str:
    texts = [message["content"] for message in messages if isinstance(message["content"], str)]
    if any("Classify" in text for text in texts):
        return "delivery"
    if any("score" in text for text in texts):
        return '{"score": 4}'
    if "Find the order number" in texts[0]:
        return reply(messages, _ORDERS)
    if "order number" in texts[0]:
        return reply(messages, _RIGHT)
    return "Hello! How can I help you?"


def _embedding(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.125]}],
        "model": body["model"],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


def _tool_call(body: dict[str, Any]) -> dict[str, Any]:
    function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"order": "59838"}'}
    answer = wire.completion("", finish_reason="tool_calls")
    answer["choices"][0]["message"] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    return answer
