"""Templates and their versions: what they say, and what they may be."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rs_gateway.domain.chat import JsonObject
from rs_gateway.domain.errors import TemplateInvalidError, shown
from rs_gateway.domain.output_formats import OutputFormat, parse, write
from rs_gateway.domain.placeholders import IDENTIFIER, names_in
from rs_gateway.domain.traces import StoreMode

TEMPLATE_ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_TEMPLATE_ID = re.compile(rf"{TEMPLATE_ID_PATTERN}\Z")
ANY_MODEL = "*"
"""The key of `serving` for every model that has no version of its own."""


@dataclass(frozen=True, slots=True)
class Demo:
    """One few-shot pair inside a version.

    Attributes:
        example_id: the example it was made from; None when a person wrote it.
    """

    user: str
    assistant: str
    example_id: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version came from, so that any live prompt can be followed back.

    Attributes:
        kind: `registered` (a person wrote it) or `study` (an optimisation found it).
        study_id, comparison_id: the records under `data/studies`; None unless kind is `study`.
    """

    kind: str
    by: str
    at: str
    study_id: str | None = None
    comparison_id: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class PromptText:
    """What a version says: all that decides which messages are sent.

    Attributes:
        instruction: the system text, with `{name}` placeholders.
        user: the user text, rendered before the client's own messages; None when those are all there is.
        output: how the model writes its answer, as instruction and demos tell it; the application gets it bare.
        nearest: of the demos, how many are shown: those most like the input; 0 shows all, in their order.
    """

    instruction: str
    user: str | None = None
    demos: tuple[Demo, ...] = ()
    output: OutputFormat = OutputFormat.BARE
    nearest: int = 0

    @property
    def content_hash(self) -> str:
        """SHA-256 over everything that is served; demos' origins do not count."""
        content: list[object] = [self.instruction, self.user, [[d.user, d.assistant] for d in self.demos]]
        if self.output is not OutputFormat.BARE:  # versions from before there were formats keep their hash
            content.append(self.output.value)
        if self.nearest:
            content.append(["nearest", self.nearest])
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    @property
    def placeholders(self) -> frozenset[str]:
        """Names of the variables that rendering needs. Raises TemplateInvalidError."""
        return names_in(self.instruction) | names_in(self.user or "")


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """An immutable version of a template; `number` counts from 1.

    Attributes:
        model: the model that it was tuned for; None when it is meant for any.
    """

    number: int
    text: PromptText
    model: str | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The facts of a registered prompt that do not change from version to version.

    Attributes:
        evaluator: how answers are scored, as in `template.yaml`: `{"name": ..., options}`.
        default: whether a bare model name resolves to this template when several run on that model.
        reference: `captured:<combination>` when that combination's answers may serve as labels; None otherwise.
        store: how much of its requests may be kept at most; None says nothing.
    """

    template_id: str
    name: str
    variables: tuple[str, ...]
    evaluator: JsonObject
    default: bool = False
    reference: str | None = None
    store: StoreMode | None = None


def check_template_id(template_id: str) -> str:
    """Return `template_id`, or raise TemplateInvalidError: it names a directory and stands in URLs."""
    if not _TEMPLATE_ID.match(template_id):
        raise TemplateInvalidError(
            f"Template id {shown(template_id)} is not allowed: use 1-100 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit."
        )
    return template_id


def check_text(text: PromptText, *, template: PromptTemplate) -> PromptText:
    """Return `text`, or raise TemplateInvalidError.

    It is malformed, uses a variable that the template lacks, or has demos that are not in its output format.
    """
    try:
        _ = text.content_hash
    except UnicodeError as error:
        raise TemplateInvalidError(f"The text holds something that is no Unicode character: {error}.") from error
    undeclared = sorted(text.placeholders - set(template.variables))
    if undeclared:
        raise TemplateInvalidError(
            f"Template {template.template_id!r} declares no variable {', '.join(undeclared)[:200]}, which its text "
            "uses: add it to the template's `variables`, or write '{{' and '}}' where braces are meant."
        )
    if text.nearest < 0 or (text.nearest and text.nearest >= len(text.demos)):
        raise TemplateInvalidError(
            f"`nearest` is {text.nearest}, and there are {len(text.demos)} demos to choose from: it is how many of "
            "them are shown, so make it smaller, or leave it out to show them all."
        )
    for number, demo in enumerate(text.demos, start=1):
        if parse(text.output, demo.assistant) is None:
            raise TemplateInvalidError(
                f"Demo {number} does not show the output format {text.output.value!r}: "
                f"write {write(text.output, demo.assistant)[:200]!r} as its `assistant`."
            )
    return text


def check_variables(variables: Sequence[str]) -> tuple[str, ...]:
    """Return `variables`, or raise TemplateInvalidError: each is an identifier, and stands there once."""
    wrong = [name for name in variables if not IDENTIFIER.match(name)]
    if wrong:
        raise TemplateInvalidError(
            f"Variable {shown(wrong[0])} is not allowed: use letters, digits and '_', not starting with a digit."
        )
    repeated = sorted({name for name in variables if variables.count(name) > 1})
    if repeated:
        raise TemplateInvalidError(f"Variable {shown(repeated[0])} is declared more than once.")
    return tuple(variables)
