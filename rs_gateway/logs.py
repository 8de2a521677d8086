"""How logs look. Called by whoever owns a process, never by a library module."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from rs_gateway.domain.redaction import api_keys
from rs_gateway.stderr_lines import print_line

_HANDLER = "route-switch"
_SILENT = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")
"""Loggers of litellm. They quote requests, which belong into no log, and have a handler of their own that writes plain
text; whatever goes wrong there also reaches us as an exception."""
# `key` and `sig` as whole names only; the others also at the end of longer ones (`x-api-key`, `access_token`).
_QUERY_SECRET = re.compile(
    r"([?&;](?:key|sig|auth|[\w-]{0,40}(?:api[_-]?key|token|secret|signature|password))=)[^\s&#'\"<>)]{1,4096}", re.I
)
_USER_IN_URL = re.compile(r"(://)[^\s/@'\"<>]{1,512}@")


def configure_logs() -> None:
    """One JSON object a line on stderr, or coloured lines on a terminal; what libraries log looks the same.

    Tracebacks show code and messages, never the values of variables: those hold prompts. Keys are taken out of both.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        without_secrets,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *shared,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    handler = _LinesHandler()
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _trim],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shared, renderer],
        )
    )
    root = logging.getLogger()
    for earlier in [known for known in root.handlers if known.get_name() == _HANDLER]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class _Lines:
    """structlog's way to stderr."""

    def __init__(self, *_: Any) -> None:
        """structlog hands over the logger's name; there is one place to write to."""

    def msg(self, line: str) -> None:
        """Write it."""
        print_line(line)

    debug = info = warning = error = critical = exception = log = msg


class _LinesHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _Lines().msg(self.format(record))
        except Exception:  # noqa: BLE001  # as all handlers do: a log line must not end what it tells of
            self.handleError(record)


def without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: takes keys out of every text of an event, its traceback and URLs included."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _clean(value)
    return event


def _trim(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["event"] = event["event"].strip()  # uvicorn ends its messages with a line break
    return event


def _clean(text: str) -> str:
    text = api_keys(text)
    if "://" in text or "=" in text:
        text = _USER_IN_URL.sub(r"\1[user]@", _QUERY_SECRET.sub(r"\1[api_key]", text))
    return text
