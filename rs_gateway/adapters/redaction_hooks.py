"""Redaction as a configuration names it: built-in rules, and one Python function of the operator's own."""

import importlib
from collections.abc import Callable, Sequence

from rs_gateway.adapters.trace_rows import Record
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.redaction import BUILT_IN, RedactionError, Redactor, Rule


def redactor_for(rules: Sequence[str], *, hook: str | None) -> Redactor | None:
    """What `privacy.redact` and `privacy.hook` ask for; None when they ask for nothing.

    The hook sees what the built-in rules left.

    Raises:
        ConfigurationError: a rule that does not exist, or a hook that cannot be used.
    """
    unknown = sorted(set(rules) - BUILT_IN.keys())
    if unknown:
        raise ConfigurationError(
            f"privacy.redact: there is no rule {unknown[0]!r}. There are: {', '.join(sorted(BUILT_IN))}."
        )
    chosen = [rule for name, rule in BUILT_IN.items() if name in rules]
    if hook is not None:
        chosen.append(load_hook(hook))
    return Redactor(chosen) if chosen else None


def load_hook(reference: str) -> Rule:
    """The function `module:function`, which takes a text and returns it redacted.

    It runs on the thread that writes traces. When it raises, or returns no text, `redact` raises RedactionError.

    Raises:
        ConfigurationError: the name is no `module:function`, the module cannot be imported, or it has no such function.
    """
    module_name, _, function_name = reference.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or not function_name.isidentifier():
        raise ConfigurationError(f"privacy.hook {reference!r} is not of the form `module:function`.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(
            f"privacy.hook {reference!r}: {module_name} cannot be imported ({type(error).__name__}: {error}). "
            "It must be installed, or lie on PYTHONPATH."
        ) from error
    function: object = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigurationError(f"privacy.hook {reference!r}: {module_name} has no function {function_name!r}.")
    return Rule(reference, _guarded(reference, function))


def _guarded(reference: str, function: Callable[..., object]) -> Callable[[str], str]:
    def redact(text: str) -> str:
        try:
            redacted = function(text)
        except Exception as error:  # noqa: BLE001 - the operator's code may raise anything
            # Neither its message nor its traceback: both may quote the text.
            raise RedactionError(f"The redaction hook {reference!r} raised {type(error).__name__}.") from None
        if not isinstance(redacted, str):
            raise RedactionError(
                f"The redaction hook {reference!r} returned {type(redacted).__name__}: it must return a text."
            )
        return redacted

    return redact


def prepare_for(redactor: Redactor) -> Callable[[Record], Record]:
    """What the writer does to each record before it is encoded.

    The function that it returns raises RedactionError or RecursionError when a record cannot be redacted. Then its
    payload, end user or value must not be stored.
    """

    def prepare(record: Record) -> Record:
        return redactor.feedback(record) if isinstance(record, Feedback) else redactor.trace(record)

    return prepare
