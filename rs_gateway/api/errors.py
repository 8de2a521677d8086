"""The one table from our errors to HTTP statuses and OpenAI's error body."""

import math
from collections.abc import Mapping

import msgspec

from rs_gateway.domain.access import KeyNotFoundError
from rs_gateway.domain.errors import (
    AlreadyLiveError,
    AmbiguousModelError,
    BudgetExceededError,
    ForbiddenError,
    InvalidRequestError,
    MissingVariablesError,
    ModelNotFoundError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    RateLimitedError,
    RegistryError,
    RequestTooLargeError,
    RouteSwitchError,
    ShuttingDownError,
    StoreError,
    TemplateExistsError,
    TemplateInvalidError,
    TemplateNotFoundError,
    TemplateUnavailableError,
    TraceNotFoundError,
    UnauthorizedError,
    VersionConflictError,
)

_STATUS: Mapping[type, int] = {
    UnauthorizedError: 401,
    ForbiddenError: 403,
    RateLimitedError: 429,
    BudgetExceededError: 429,
    RequestTooLargeError: 413,
    MissingVariablesError: 400,
    AmbiguousModelError: 400,
    InvalidRequestError: 400,
    KeyNotFoundError: 404,
    ModelNotFoundError: 404,
    TraceNotFoundError: 404,
    VersionConflictError: 409,
    AlreadyLiveError: 409,
    TemplateInvalidError: 400,
    TemplateNotFoundError: 404,
    TemplateExistsError: 409,
    RegistryError: 503,
    TemplateUnavailableError: 503,
    StoreError: 503,
    ShuttingDownError: 503,
    ProviderTimeoutError: 504,
    ProviderError: 502,
}
_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_UPSTREAM_SERVER_STATUS = {503: 503, 504: 504, 529: 503}


def status_of(error: RouteSwitchError) -> int:
    """The HTTP status that a client sees."""
    if isinstance(error, ProviderRefusedError) and error.status is not None:
        return error.status
    if isinstance(error, ProviderOverloadedError) and error.status is not None:
        return error.status if error.status < 500 else _UPSTREAM_SERVER_STATUS.get(error.status, 502)
    return status_of_kind(type(error)) or 500


def status_of_kind(kind: type[RouteSwitchError]) -> int | None:
    """The status of a kind of error, where a provider's own does not take its place; None: clients never see it."""
    return next((_STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in _STATUS), None)


def headers_of(error: RouteSwitchError) -> dict[str, str]:
    """Headers that go with the error: what a provider asked us to wait, the client is asked too."""
    if isinstance(error, ProviderError | RateLimitedError | ShuttingDownError) and error.retry_after_s is not None:
        return {"retry-after": str(math.ceil(error.retry_after_s))}
    return {}


def body_of(error: RouteSwitchError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    status = status_of(error)
    code, kind = error.code, error_type(status)
    if isinstance(error, ProviderRefusedError | ProviderOverloadedError):
        code = error.upstream_code or error.code
        kind = error.upstream_type or kind
    return error_body(str(error), kind=kind, param=error.param, code=code)


def error_body(message: str, *, kind: str, param: str | None, code: str | None) -> bytes:
    """OpenAI's error object, encoded."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


INTERNAL_ERROR = error_body(
    "Something went wrong here; it is logged.", kind="server_error", param=None, code="internal"
)
"""The answer where something happened that nobody expected."""


def error_type(status: int) -> str:
    """OpenAI's `type` for a status."""
    return _TYPE_BY_STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")
