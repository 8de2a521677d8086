"""What went wrong behind litellm: the vendor's own status, words and Retry-After, from under litellm's rewording."""

import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from rs_gateway.adapters.http_refusals import parse_retry_after
from rs_gateway.adapters.unreachable import unreachable
from rs_gateway.adapters.vendor_words import fit_for_clients
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import (
    ProviderError,
    ProviderGarbageError,
    ProviderOverloadedError,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnreachableError,
)

_RETRYABLE_STATUS = frozenset({408, 409, 429})
_TRANSPORTS = frozenset({"httpx", "httpcore", "aiohttp"})
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")
_UNSUPPORTED = re.compile(r"does not support param(?:eter)?s?:? *[\[{]?'(\w+)'")
_UNSUPPORTED_TOOL = re.compile(r"Unsupported tool type: (\S{1,50})")
_OWN_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception):? *-? *)+")


def translate(error: BaseException, *, name: str, secret: str | None) -> ProviderError:
    """The ProviderError that `error` means.

    Args:
        error: whatever litellm raised; the exceptions that it came from are looked at too.
        name: the provider's, for messages.
        secret: its key, kept out of them.
    """
    chain = tuple(_chain(error))
    response = next((r for e in chain if (r := _answer_of(e)) is not None), None)
    if response is not None:
        status = int(response.status_code)
        return _refusal(status, _body(response), chain, name=name, secret=secret)
    if any("Timeout" in type(e).__name__ for e in chain):
        return ProviderTimeoutError(f"{name} did not answer in time.", provider=name)
    if any(isinstance(e, json.JSONDecodeError) or getattr(e, "status_code", None) == 200 for e in chain):
        return ProviderGarbageError(
            f"{name} answered 200 with something that is no answer of its kind.", provider=name, status=200
        )
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in _RETRYABLE_STATUS:
        words = _clean(str(getattr(error, "message", "") or error), secret)
        unsupported = _UNSUPPORTED.search(words)
        if unsupported is not None:
            return unsupported_parameter(unsupported[1], name=name)
        return ProviderRefusedError(f"{name}: {words}", provider=name, status=status)
    if (tool := next((m for e in chain if (m := _UNSUPPORTED_TOOL.search(str(e)))), None)) is not None:
        return ProviderRefusedError(
            f"{name} has no tools of type {tool[1]!r}.",
            provider=name,
            status=400,
            upstream_code="unsupported_parameter",
            upstream_type="invalid_request_error",
            upstream_param="tools",
        )
    if any(isinstance(e, OSError) or type(e).__module__.split(".")[0] in _TRANSPORTS for e in chain):
        return ProviderUnreachableError(
            unreachable(name, chain[-1]),
            provider=name,
            sent=not any(isinstance(e, ConnectionRefusedError | socket.gaierror) for e in chain),
        )
    return ProviderGarbageError(
        f"{name}'s answer could not be understood ({type(chain[-1]).__name__}).", provider=name, status=200
    )


def unsupported_parameter(parameter: str, *, name: str) -> ProviderRefusedError:
    """A parameter that this provider cannot be given; it is refused rather than dropped."""
    return ProviderRefusedError(
        f"{name} cannot be given `{parameter}`: leave it out, or ask a model that knows it.",
        provider=name,
        status=400,
        upstream_code="unsupported_parameter",
        upstream_type="invalid_request_error",
        upstream_param=parameter,
    )


def _refusal(
    status: int, body: JsonObject, chain: tuple[BaseException, ...], *, name: str, secret: str | None
) -> ProviderError:
    error = body.get("error", body)
    error = error if isinstance(error, dict) else {"message": error}
    message = f"{name}: {_clean(str(error.get('message') or f'status {status}'), secret)}"
    if "API_KEY_INVALID" in str(error.get("details")):
        status = 401  # Google says 400, as of a malformed request
    code = _text(error.get("code") if isinstance(error.get("code"), str) else error.get("status"), secret)
    kind, param = _text(error.get("type"), secret), _text(error.get("param"), secret)
    if status in _RETRYABLE_STATUS or status >= 500:
        return ProviderOverloadedError(
            message,
            provider=name,
            status=status,
            retry_after_s=_retry_after(chain, error),
            upstream_code=code,
            upstream_type=kind,
            upstream_param=param,
        )
    if status < 400:
        return ProviderGarbageError(f"{name} answered with status {status}.", provider=name, status=status)
    return ProviderRefusedError(
        message, provider=name, status=status, upstream_code=code, upstream_type=kind, upstream_param=param
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__ or getattr(at, "original_exception", None)


def _answer_of(error: BaseException) -> Any:
    """The HTTP response of a failed call. litellm's own errors carry made-up ones, which are of no use."""
    if "HTTPStatusError" not in {kind.__name__ for kind in type(error).__mro__}:
        return None
    return getattr(error, "response", None)


def _body(response: Any) -> JsonObject:
    try:
        decoded = msgspec.json.decode(response.content)
    except Exception:  # noqa: BLE001  # unread, undecodable or no JSON: there is nothing to learn from it
        return {}
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]  # Google wraps the error of a stream into a list
    return decoded if isinstance(decoded, dict) else {}


def _retry_after(chain: tuple[BaseException, ...], error: JsonObject) -> float | None:
    """Seconds to wait, from any header that litellm has kept, else from Google's RetryInfo."""
    for at in chain:
        for headers in (getattr(at, "headers", None), getattr(getattr(at, "response", None), "headers", None)):
            value = headers.get("retry-after") if headers else None
            if isinstance(value, str):
                return parse_retry_after(value, now=datetime.now(UTC))
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = _SECONDS.fullmatch(str(detail.get("retryDelay"))) if isinstance(detail, dict) else None
        if delay is not None:
            return float(delay[1])
    return None


def _clean(words: str, secret: str | None) -> str:
    """What is fit for a client, without litellm's own preamble."""
    return fit_for_clients(_OWN_PREFIX.sub("", words.strip()), secret=secret)


def _text(value: object, secret: str | None) -> str | None:
    return None if value is None else fit_for_clients(str(value), secret=secret)
