"""Templates, their versions, and the one rendering function that serving and optimising share."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from rs_gateway.domain.answers import text_of
from rs_gateway.domain.chat import JsonObject, Message
from rs_gateway.domain.errors import (
    AlreadyLiveError,
    MissingVariablesError,
    RegistryError,
    TemplateInvalidError,
    TemplateNotFoundError,
    VersionConflictError,
    shown,
)
from rs_gateway.domain.nearest import NearestIndex
from rs_gateway.domain.output_formats import OutputFormat, parse, write
from rs_gateway.domain.publication import Change
from rs_gateway.domain.traces import StoreMode

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
TEMPLATE_ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_TEMPLATE_ID = re.compile(rf"{TEMPLATE_ID_PATTERN}\Z")
_SHOWN_MODELS = 10
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
        parts = (*parse_text(self.instruction), *(parse_text(self.user) if self.user is not None else ()))
        return frozenset(name for _, name in parts if name is not None)


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


@dataclass(frozen=True, slots=True)
class RegisteredTemplate:
    """A template with all of its versions and what is live."""

    template: PromptTemplate
    versions: Mapping[int, PromptVersion]
    serving: Mapping[str, int]
    """model name (or ANY_MODEL) -> live version number."""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """combination id -> weight set at run time; overrides the configuration's."""
    history: tuple[Change, ...] = ()

    def live(self, model: str) -> PromptVersion | None:
        """The version that `model` serves now, or None when nothing is live for it."""
        number = self.serving.get(model, self.serving.get(ANY_MODEL))
        return None if number is None else self.versions[number]

    @property
    def own_versions(self) -> dict[str, int]:
        """model -> live version number, for the models that ANY_MODEL's version does not reach."""
        return {model: number for model, number in sorted(self.serving.items()) if model != ANY_MODEL}


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
    wrong = [name for name in variables if not _IDENTIFIER.match(name)]
    if wrong:
        raise TemplateInvalidError(
            f"Variable {shown(wrong[0])} is not allowed: use letters, digits and '_', not starting with a digit."
        )
    repeated = sorted({name for name in variables if variables.count(name) > 1})
    if repeated:
        raise TemplateInvalidError(f"Variable {shown(repeated[0])} is declared more than once.")
    return tuple(variables)


def make_live(registered: RegisteredTemplate, change: Change) -> RegisteredTemplate:
    """`registered` after `change`: compare what is live with `change.previous`, then set and record it.

    Raises:
        VersionConflictError: another version is live by now. AlreadyLiveError: nothing would change.
        RegistryError: there is no such version.
    """
    template_id, model = registered.template.template_id, change.model if change.model is not None else ANY_MODEL
    if change.version is None or change.version not in registered.versions:
        raise TemplateNotFoundError(
            f"Template {template_id!r} has no version {change.version}: "
            f"name one of {', '.join(map(str, registered.versions))}."
        )
    live = registered.live(model)
    number = None if live is None else live.number
    if number != change.previous:
        raise VersionConflictError(
            f"Version {'none' if number is None else number} of template {template_id!r} is live for "
            f"{'every model' if model == ANY_MODEL else shown(model)} by now, not {change.previous}: "
            "look at it, and decide again."
        )
    if registered.serving.get(model) == change.version:
        whom = "every model without a version of its own" if model == ANY_MODEL else shown(model)
        own = listed_versions({m: n for m, n in registered.own_versions.items() if m != model})
        others = f" Models with a version of their own: {own}; name one as `model` to change it." if own else ""
        raise AlreadyLiveError(
            f"Version {change.version} of template {template_id!r} is live for {whom} already: nothing changes.{others}"
        )
    return replace(
        registered,
        serving={**registered.serving, model: change.version},
        history=(*registered.history, change),
    )


def number_drafts(
    registered: RegisteredTemplate, versions: Sequence[PromptVersion]
) -> tuple[dict[int, int], list[PromptVersion]]:
    """Which number each of these versions from elsewhere has in `registered`, and those that it lacks, so numbered.

    A version is there already when one has its text and its model.
    """
    known = {(v.text.content_hash, v.model): number for number, v in sorted(registered.versions.items(), reverse=True)}
    following = itertools.count(max(registered.versions, default=0) + 1)
    numbers: dict[int, int] = {}
    added: list[PromptVersion] = []
    for version in versions:
        same = (version.text.content_hash, version.model)
        if same not in known:
            known[same] = next(following)
            added.append(replace(version, number=known[same]))
        numbers[version.number] = known[same]
    return numbers, added


def listed_versions(own: Mapping[str, int]) -> str:
    """Models and the versions that they have for themselves, for a message."""
    more = len(own) - _SHOWN_MODELS
    some = ", ".join(f"{model[:100]} ({number})" for model, number in list(own.items())[:_SHOWN_MODELS])
    return some + (f" and {more} more" if more > 0 else "")


def set_weight(registered: RegisteredTemplate, change: Change) -> RegisteredTemplate:
    """`registered` with `change.weight` for `change.combination_id`, recorded.

    Raises RegistryError: it names no combination, or the weight is no number from 0 up.
    """
    combination_id, weight = change.combination_id, change.weight
    if combination_id is None:
        raise RegistryError("A change of weight names a combination.")
    if weight is not None and not 0 <= weight < math.inf:
        raise RegistryError(f"A weight is a number from 0 up, not {weight!r}.")
    weights = {c: w for c, w in registered.weights.items() if c != combination_id}
    if weight is not None:
        weights[combination_id] = float(weight)
    return replace(registered, weights=weights, history=(*registered.history, change))


@lru_cache(maxsize=4096)
def parse_text(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a text into (literal, placeholder name or None) parts.

    `{name}` is a placeholder, `{{` and `}}` are literal braces, and nothing else is special. A brace that starts no
    placeholder (as in a JSON example) is refused rather than guessed at.

    Raises:
        TemplateInvalidError: a single brace, or something between braces that is no identifier.
    """
    parts: list[tuple[str, str | None]] = []
    literal: list[str] = []
    position = 0
    while (found := _next_brace(text, position)) != -1:
        literal.append(text[position:found])
        brace = text[found]
        if text[found : found + 2] == brace * 2:
            literal.append(brace)
            position = found + 2
            continue
        end = text.find("}", found)
        name = text[found + 1 : end] if end != -1 else ""
        if brace == "}" or not _IDENTIFIER.match(name):
            near = text[max(0, found - 20) : found + 20]
            raise TemplateInvalidError(
                f"A single {brace!r} near {near!r} starts no placeholder: write {brace * 2!r} for a literal brace."
            )
        parts.append(("".join(literal), name))
        literal.clear()
        position = end + 1
    literal.append(text[position:])
    if any(literal):
        parts.append(("".join(literal), None))
    return tuple(parts)


def _next_brace(text: str, position: int) -> int:
    opening, closing = text.find("{", position), text.find("}", position)
    return max(opening, closing) if -1 in (opening, closing) else min(opening, closing)


def escape_text(text: str) -> str:
    """Double the braces of `text`, so that it renders as itself."""
    return text.replace("{", "{{").replace("}", "}}")


def render(text: str, variables: Mapping[str, str], *, template_id: str) -> str:
    """Insert each value once, verbatim; values are never re-scanned for placeholders.

    Raises:
        MissingVariablesError: names all of the missing ones.
    """
    parts = parse_text(text)
    missing = [name for _, name in parts if name is not None and name not in variables]
    if missing:
        raise MissingVariablesError(template_id, missing)
    return "".join([literal if name is None else literal + variables[name] for literal, name in parts])


def render_messages(
    text: PromptText, variables: Mapping[str, str], messages: Sequence[Message], *, template_id: str
) -> tuple[Message, ...]:
    """What a provider is sent: system, demos as user/assistant turns, the user text, then the client's messages.

    Where only the nearest demos are shown, it is those most like what the input says (`words_of_input`), or the values
    in the instruction where it says nothing.

    An empty instruction sends no system message. Raises MissingVariablesError, naming what both texts lack.
    """
    rendered: list[Message] = []
    try:
        instruction = render(text.instruction, variables, template_id=template_id)
        user = render(text.user, variables, template_id=template_id) if text.user is not None else None
    except MissingVariablesError:
        raise MissingVariablesError(template_id, text.placeholders - variables.keys()) from None
    if instruction:
        rendered.append({"role": "system", "content": instruction})
    for demo in text.demos if not text.nearest else _nearest_demos(text, user, variables, messages):
        rendered.append({"role": "user", "content": demo.user})
        rendered.append({"role": "assistant", "content": demo.assistant})
    if user is not None:
        rendered.append({"role": "user", "content": user})
    rendered.extend(messages)
    return tuple(rendered)


_indexes: dict[int, tuple[tuple[Demo, ...], NearestIndex]] = {}
"""By the identity of a pool of demos: hashing hundreds of them would cost more than looking them up."""
_MAX_INDEXES = 64


def _nearest_demos(
    text: PromptText, user: str | None, variables: Mapping[str, str], messages: Sequence[Message]
) -> list[Demo]:
    known = _indexes.get(id(text.demos))
    if known is None or known[0] is not text.demos:
        if len(_indexes) >= _MAX_INDEXES:
            _indexes.clear()
        known = _indexes[id(text.demos)] = (text.demos, NearestIndex([demo.user for demo in text.demos]))
    asked = words_of_input(text, user, messages)
    if asked is None:
        asked = " ".join(variables[name] for _, name in parse_text(text.instruction) if name is not None)
    return [text.demos[position] for position in known[1].nearest(asked, text.nearest)]


def words_of_input(text: PromptText, user: str | None, messages: Sequence[Message]) -> str | None:
    """What an input says in the place where a demo shows its own.

    That is `user`, the rendered user text, or the client's last user message where the user text has no placeholder and
    is the same for every input. None where there is neither.
    """
    if user is not None and text.user is not None and any(name is not None for _, name in parse_text(text.user)):
        return user
    for message in reversed(messages):
        if message.get("role") == "user":
            words = text_of(message.get("content"))
            return words if words.strip() else None
    return None
