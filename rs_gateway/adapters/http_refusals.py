"""What a provider's HTTP status and error body mean, as our errors; without what only we should know."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from rs_gateway.adapters.vendor_words import fit_for_clients
from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import (
    ProviderError,
    ProviderGarbageError,
    ProviderOverloadedError,
    ProviderRefusedError,
)

_RETRYABLE_STATUS = frozenset({408, 409, 429})


def refusal_of(
    status: int, body: bytes, headers: Mapping[str, str], *, provider: str, secret: str | None, host: str | None
) -> ProviderError:
    """What a status other than 200 means. The body's own words are kept, OpenAI's shape and Anthropic's alike.

    Args:
        secret, host: the key and the host that were used, kept out of the words.
    """
    error = _error_object(body)

    def told(field: str) -> str | None:
        value = error.get(field)
        return None if value is None else fit_for_clients(str(value), secret=secret, host=host)

    message = f"{provider}: {told('message') or f'status {status}'}"
    code, kind, param = told("code"), told("type"), told("param")
    if status in _RETRYABLE_STATUS or status >= 500:
        retry_after_s = parse_retry_after(headers.get("retry-after"), now=datetime.now(UTC))
        return ProviderOverloadedError(
            message,
            provider=provider,
            status=status,
            retry_after_s=retry_after_s,
            upstream_code=code,
            upstream_type=kind,
            upstream_param=param,
        )
    if 400 <= status < 500:
        return ProviderRefusedError(
            message, provider=provider, status=status, upstream_code=code, upstream_type=kind, upstream_param=param
        )
    return ProviderGarbageError(f"{provider} answered with status {status}.", provider=provider, status=status)


def _error_object(body: bytes) -> JsonObject:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else {}
    if isinstance(error, str):
        return {"message": error}
    return {str(k): v for k, v in error.items()} if isinstance(error, dict) else {}


def parse_retry_after(value: str | None, *, now: datetime) -> float | None:
    """Seconds to wait, from a Retry-After header in seconds or as an HTTP date; None when absent or unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None
