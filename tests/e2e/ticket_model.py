"""A scripted model for the sample tickets, as a server: `python ticket_model.py PORT DELAY_S`.

Without demos it repeats the message; with demos it is right on a part of the messages, and on more of them with more.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

TICKETS = Path(__file__).parents[2] / "data" / "sample" / "tickets.jsonl"
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def right_answers() -> dict[str, str]:
    rows = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]
    return {row["variables"]["message"]: row["expected"] for row in rows}


def reply(messages: list[dict[str, str]], right: dict[str, str]) -> str:
    asked = messages[-1]["content"]
    demos = sum(message["role"] == "assistant" for message in messages)
    # Uniform in [0, 1), and the same at every call.
    difficulty = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:4]) / 2**32
    return right[asked] if asked in right and difficulty < 0.2 * min(demos, 4) else asked


class TicketModel:
    def __init__(self, delay_s: float) -> None:
        self._delay_s, self._right = delay_s, right_answers()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = b""
        while (event := await receive()).get("more_body") or event.get("body"):
            body += event["body"]
            if not event.get("more_body"):
                break
        answer = await self._completion(json.loads(body)) if scope["path"] == "/v1/chat/completions" else {}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _completion(self, request: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(self._delay_s)
        content = reply(request["messages"], self._right)
        read = sum(len(message["content"].split()) for message in request["messages"])
        written = len(content.split())
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": request["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }


if __name__ == "__main__":
    uvicorn.run(TicketModel(float(sys.argv[2])), port=int(sys.argv[1]), lifespan="off", log_level="warning")  # pyright: ignore[reportArgumentType]  # an ASGI application, typed more plainly
