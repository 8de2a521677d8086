"""What Google's generateContent and streamGenerateContent?alt=sse send, as its documentation shows them."""

from typing import Any

from tests.gateway.providers.vendor import JsonDict, sse

MODEL = "gemini-2.5-flash"
USAGE: JsonDict = {
    "promptTokenCount": 12,
    "candidatesTokenCount": 4,
    "totalTokenCount": 16,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
}


def answer(*parts: JsonDict, finish: str | None = "STOP", usage: JsonDict | None = None) -> JsonDict:
    """A GenerateContentResponse with one candidate; in a stream each event is one."""
    candidate: JsonDict = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": usage or USAGE,
        "modelVersion": MODEL,
        "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
    }


def text(words: str) -> JsonDict:
    return {"text": words}


def function_call(name: str, arguments: JsonDict) -> JsonDict:
    return {"functionCall": {"name": name, "args": arguments}}


def events(*answers: JsonDict) -> list[bytes]:
    """Google ends its lines with CRLF."""
    return [sse(a).replace(b"\n\n", b"\r\n\r\n") for a in answers]


BLOCKED: JsonDict = {
    "promptFeedback": {
        "blockReason": "PROHIBITED_CONTENT",
        "safetyRatings": [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}],
    },
    "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
    "modelVersion": MODEL,
}
"""The prompt itself was refused: there is no candidate at all."""


ERROR_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def error(code: int, status: str, words: str, *details: Any) -> JsonDict:
    """An error body."""
    return {"error": {"code": code, "message": words, "status": status, "details": list(details)}}
