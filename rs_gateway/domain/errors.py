"""Every error we raise on purpose. Only `api/errors.py` knows which HTTP status each one becomes."""

import reprlib
from collections.abc import Iterable
from typing import ClassVar

_SHOWN_CHARACTERS = 100
_SHOWN_NAMES = 30
_ABOUT_US = frozenset({401, 402, 403, 404})
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _SHOWN_CHARACTERS


class RouteSwitchError(Exception):
    """Base of every error we raise on purpose. `code` is stable; the message is for a person."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    param: str | None = None
    """The request field at fault, in OpenAI's notation, where there is one."""


class InvalidRequestError(RouteSwitchError):
    """The request is not one that can be served, whoever would serve it."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class RequestTooLargeError(InvalidRequestError):
    """The body exceeds `gateway.max_body_bytes`."""

    code = "request_too_large"


class UnauthorizedError(RouteSwitchError):
    """No client key, or one that is not (or no longer) known."""

    code = "invalid_api_key"


class ForbiddenError(RouteSwitchError):
    """The client key may not do this."""

    code = "not_allowed"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class RateLimitedError(RouteSwitchError):
    """Too many requests or tokens in the last minute, or too many at once.

    Attributes:
        retry_after_s: when it is worth another try, in seconds.
    """

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BudgetExceededError(RouteSwitchError):
    """The client key has spent its budget; waiting does not help."""

    code = "insufficient_quota"


class ShuttingDownError(RouteSwitchError):
    """The gateway was told to end, and the request took longer than it may still run."""

    code = "shutting_down"
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down. Send the request again: another one may answer.")


class ClientStalledError(RouteSwitchError):
    """The client stopped reading its stream; nobody is left to be told."""

    code = "client_stalled"


class MissingVariablesError(InvalidRequestError):
    """A template was rendered without all of its variables."""

    code = "missing_variables"

    def __init__(self, template_id: str, missing: Iterable[str]) -> None:
        self.template_id, self.missing = template_id, tuple(sorted(missing))
        super().__init__(
            f"Template {template_id!r} needs {', '.join(self.missing)}: pass them in `variables`.", param="variables"
        )


class ModelNotFoundError(RouteSwitchError):
    """Nothing that is served answers to this model, template or combination name."""

    code = "model_not_found"
    param = "model"

    def __init__(self, name: str, *, kind: str = "model", available: Iterable[str]) -> None:
        self.name, self.available = name, tuple(sorted(available))
        self.param = "model" if kind == "model" else f"metadata.{kind}_id"
        known = _listed(self.available) or "nothing: no template has a live version and a combination yet"
        super().__init__(f"The {kind} {_shortened(name)!r} does not exist here. You can ask for: {known}.")


class NotForThisKeyError(ModelNotFoundError):
    """The same for a client with a key of its own, who is not told what others may ask for."""

    def __init__(self, error: ModelNotFoundError) -> None:
        RouteSwitchError.__init__(
            self,
            f"{_shortened(error.name)!r} does not exist here, or not for this key: `/v1/models` lists what does.",
        )
        self.name, self.available, self.param = error.name, (), error.param


class AmbiguousModelError(InvalidRequestError):
    """Several templates run on the requested model and none is the default."""

    code = "ambiguous_model"

    def __init__(self, model: str, template_ids: Iterable[str]) -> None:
        self.template_ids = tuple(sorted(template_ids))
        super().__init__(
            f"Several templates run on {_shortened(model)!r}: {_listed(self.template_ids)}. "
            "Name one in `metadata.template_id` or as `model`, or mark one `default: true`.",
            param="model",
        )


class TemplateUnavailableError(RouteSwitchError):
    """The template exists but cannot be served now; `/status` shows why."""

    code = "template_unavailable"

    def __init__(self, template_id: str, reason: str) -> None:
        self.template_id = template_id
        super().__init__(f"Template {template_id!r} cannot be served: {reason}")


class TemplateInvalidError(RouteSwitchError):
    """A template or version is not well-formed (placeholders, names, missing parts)."""

    code = "invalid_template"


class RegistryError(RouteSwitchError):
    """The prompt registry refused a change or cannot be read."""

    code = "registry_error"


class TemplateNotFoundError(RegistryError):
    """There is no such template, or it has no such version."""

    code = "template_not_found"
    param = "template_id"


class TemplateExistsError(RegistryError):
    """The template id is taken."""

    code = "template_exists"
    param = "id"


class VersionConflictError(RegistryError):
    """The registry moved on between reading and writing; read again and retry."""

    code = "version_conflict"


class AlreadyLiveError(RegistryError):
    """The version is live already: the change would change nothing."""

    code = "already_live"
    param = "version"


class StoreError(RouteSwitchError):
    """The trace store cannot be written or read."""

    code = "store_error"


class SchemaTooNewError(StoreError):
    """The store was written by a newer program than this one."""

    code = "schema_too_new"


class TraceNotFoundError(RouteSwitchError):
    """Feedback names a trace that the store does not hold."""

    code = "trace_not_found"
    param = "trace_id"

    def __init__(self, trace_id: str) -> None:
        super().__init__(
            f"There is no trace {_shortened(trace_id)!r}: use the `x-route-switch-trace-id` header of the answer you "
            "mean."
        )


class ConfigurationError(RouteSwitchError):
    """route-switch.yaml, an RS_* variable or a flag is wrong."""

    code = "configuration_error"


class ProviderError(RouteSwitchError):
    """A provider did not give a usable answer.

    Attributes:
        provider: name of the provider in the configuration.
        status: HTTP status that it answered with; None when no answer came.
        retry_after_s: how long it asked us to wait, in seconds, if it did.
        sent: whether the request may have got there, and be billed.
    """

    code = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        sent: bool = True,
    ) -> None:
        self.provider, self.status, self.retry_after_s, self.sent = provider, status, retry_after_s, sent
        super().__init__(message)


class ProviderUnreachableError(ProviderError):
    """No connection, or it broke before an answer."""

    code = "provider_unreachable"
    retryable = True


class ProviderTimeoutError(ProviderError):
    """It did not answer, or not within the request's deadline."""

    code = "provider_timeout"
    retryable = True


class ProviderOverloadedError(ProviderError):
    """It answered 408, 409, 429 or 5xx: another try, or another combination, may succeed.

    Attributes:
        upstream_code, upstream_type, param: the provider's own error fields, passed on to the client.
    """

    code = "provider_overloaded"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        upstream_code: str | None = None,
        upstream_type: str | None = None,
        upstream_param: str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, status=status, retry_after_s=retry_after_s)
        self.upstream_code, self.upstream_type, self.param = upstream_code, upstream_type, upstream_param


class ProviderGarbageError(ProviderError):
    """Status 200 with something that is no chat completion."""

    code = "provider_garbage"
    retryable = True


class ProviderCutError(ProviderError):
    """A stream ended, stalled or turned malformed before the answer was complete."""

    code = "provider_cut"
    retryable = True


class ProviderRefusedError(ProviderError):
    """It refused the request itself (4xx); no other try can mend it.

    Attributes:
        upstream_code, upstream_type, param: the provider's own error fields, passed on to the client.
    """

    code = "provider_refused"

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        status: int,
        upstream_code: str | None = None,
        upstream_type: str | None = None,
        upstream_param: str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, status=status)
        self.upstream_code, self.upstream_type, self.param = upstream_code, upstream_type, upstream_param

    @property
    def is_about_us(self) -> bool:
        """It speaks of our account or of the model, not of the request: that counts against the combination."""
        return self.status in _ABOUT_US


def shown(value: object) -> str:
    """A client's own value in a message to it, quoted: enough to recognise it, however large it is."""
    return _shortened(_REPR.repr(value))


def _shortened(text: str) -> str:
    """The same for words."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more (see /v1/models)" if more > 0 else "")
