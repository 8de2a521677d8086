"""Errors in the shape of the endpoint that was asked: OpenAI's, or Anthropic's on Messages."""

import msgspec

from rs_gateway.api.errors import body_of, status_of
from rs_gateway.domain.endpoints import Endpoint
from rs_gateway.domain.errors import ProviderOverloadedError, ProviderRefusedError, RouteSwitchError

_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = frozenset({*_ANTHROPIC_TYPE.values(), "api_error", "billing_error"})


def error_body(endpoint: Endpoint, error: RouteSwitchError, *, request_id: str) -> bytes:
    """The body of an error answer."""
    return _anthropic(error, request_id) if endpoint == "messages" else body_of(error)


def error_event(endpoint: Endpoint, error: RouteSwitchError, *, request_id: str, number: int) -> bytes:
    """The event that ends a stream which broke off.

    Args:
        number: its place in the stream, for protocols whose events are numbered.
    """
    if endpoint == "messages":
        return b"event: error\ndata: " + _anthropic(error, request_id) + b"\n\n"
    # The documented event is flat; OpenAI's own clients raise only when there is an `error` object in it.
    event = {
        "type": "error",
        "code": error.code,
        "message": str(error),
        "param": error.param,
        "sequence_number": number,
    }
    nested = msgspec.json.decode(body_of(error))["error"]
    return b"event: error\ndata: " + msgspec.json.encode({**event, "error": nested}) + b"\n\n"


def _anthropic(error: RouteSwitchError, request_id: str) -> bytes:
    status = status_of(error)
    kind = _ANTHROPIC_TYPE.get(status, "invalid_request_error" if status < 500 else "api_error")
    given = error.upstream_type if isinstance(error, ProviderRefusedError | ProviderOverloadedError) else None
    if given in _ANTHROPIC_TYPES:
        kind = given
    return msgspec.json.encode(
        {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": request_id}
    )
