"""Train rows as prompts and proposers may see them: without what the configuration redacts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rs_gateway.domain.redaction import RedactionError, Redactor
from rs_pipelines.sample import Example


def redacted_examples(examples: Sequence[Example], redactor: Redactor | None) -> tuple[Example, ...]:
    """The examples with their inputs redacted; each keeps its id, so that a demo leads back to its row.

    Imported rows come as they were imported, and a demo is sent with every request. Left out is a row whose answer
    would be redacted, as it would teach a wrong answer, and one that a rule fails on.
    """
    if redactor is None:
        return tuple(examples)
    found = (_redacted(example, redactor) for example in examples)
    return tuple(example for example in found if example is not None)


def is_clean(text: str, redactor: Redactor | None) -> bool:
    """Whether there is nothing in the text that would be redacted; False also when nobody can say."""
    if redactor is None:
        return True
    try:
        return redactor.text(text) == text
    except RedactionError:
        return False


def _redacted(example: Example, redactor: Redactor) -> Example | None:
    try:
        if redactor.text(example.expected) != example.expected:
            return None
        messages: Any = redactor.value(example.messages)
        variables = {name: redactor.text(value) for name, value in example.variables.items()}
    except RedactionError:
        return None
    return replace(example, variables=variables, messages=messages)
