"""Traces, feedback and imported rows become labelled examples."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import msgspec
import polars as pl

from rs_gateway.domain.chat import JsonObject, Message
from rs_gateway.domain.feedback import FeedbackKind
from rs_gateway.domain.output_formats import OutputFormat, read_answer
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.domain.traces import Outcome
from rs_pipelines.datasets import DatasetStore
from rs_pipelines.inputs import example_id, input_key, split_of
from rs_pipelines.lake import Lake
from rs_pipelines.sample import TEACHER, Example, Split, Target

_CAPTURED = "captured:"
_ALL_BARE: Mapping[int, OutputFormat] = {}
_T = TypeVar("_T")


class Trust(IntEnum):
    """How far a label's provenance is trusted; a smaller number is trusted more."""

    HUMAN = 0
    IMPORTED = 1
    OUTCOME = 2
    TEACHER = 3
    CAPTURED = 4


@dataclass(frozen=True, slots=True)
class Gathered:
    """The usable examples.

    Attributes:
        duplicates: labels left out because their input has a better or later one.
        own_answers: inputs left out because only the target's own model, as a teacher, labelled them.
    """

    examples: tuple[Example, ...]
    duplicates: int
    own_answers: int = 0


def gather(
    target: Target,
    template: PromptTemplate,
    *,
    lake: Lake,
    datasets: DatasetStore,
    outputs: Mapping[int, OutputFormat] = _ALL_BARE,
) -> Gathered:
    """All labelled examples of a template that may be used for `target.model`: one for each normalised input.

    The most trusted label wins (Trust), among equally trusted ones the latest. Variables that the template does not
    declare are left out, for they reach no prompt. Traces that lack one, or whose payload was not kept, give none.
    Nor do labels that the target's own model gave: they would teach it to imitate itself, and find it without fault.

    Args:
        outputs: version number -> its output format; an answer that its version's format could not read is no label.
    """
    imported_splits: dict[str, Split] = {}
    best: dict[str, _Label] = {}
    own: set[str] = set()
    n_labels = 0
    for label in (
        *_imported(datasets, template, imported_splits),
        *lake.settled(
            lambda: [*_said_about_traces(lake, template, outputs), *_captured(lake, template, target, outputs)]
        ),
    ):
        if label.provenance == f"{TEACHER}{target.model}":
            own.add(label.key)
            continue
        n_labels += 1
        known = best.get(label.key)
        if known is None or label.precedence > known.precedence:
            best[label.key] = label
    examples = (
        Example(
            example_id=example_id(template.template_id, key),
            variables=label.variables,
            messages=label.messages,
            expected=label.expected,
            provenance=label.provenance,
            split=imported_splits.get(key) or split_of(key),
            trace_id=label.trace_id,
        )
        for key, label in best.items()
    )
    ordered = tuple(sorted(examples, key=lambda e: e.example_id))
    return Gathered(ordered, n_labels - len(best), len(own - best.keys()))


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """An input that was asked in production and that nobody has labelled."""

    trace_id: str
    variables: Mapping[str, str]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class UnlabelledInputs:
    """The newest of them, and how many there are in all."""

    newest: tuple[Unlabelled, ...]
    total: int


def unlabelled_inputs(template: PromptTemplate, *, lake: Lake, datasets: DatasetStore, limit: int) -> UnlabelledInputs:
    """What production asked of a template, each input once, the newest first, without those that have a label.

    Labels are those of people, files and teachers; a served answer, known to have worked out or not, is none.
    """
    imported = {label.key for label in _imported(datasets, template, {})}
    return lake.settled(lambda: _unlabelled(template, lake, imported, limit))


def _unlabelled(template: PromptTemplate, lake: Lake, imported: Collection[str], limit: int) -> UnlabelledInputs:
    known = set(imported)
    known |= {label.key for label in _said_about_traces(lake, template, _ALL_BARE) if label.trust is not Trust.OUTCOME}
    found: list[Unlabelled] = []
    counted: set[str] = set()
    for row in _traces(lake, template).sort("seq", descending=True).collect().iter_rows(named=True):
        asked = _input(row, template)
        if asked is None or asked[0] in known or asked[0] in counted:
            continue
        counted.add(asked[0])
        if len(found) < limit:
            found.append(Unlabelled(row["trace_id"], asked[1], asked[2]))
    return UnlabelledInputs(tuple(found), len(counted))


def key_of_input(variables: str | None, messages: str | None, template: PromptTemplate) -> str | None:
    """Hash of the normalised input of a trace, given as the JSON text that stores have; None where it has none."""
    asked = _input({"variables": variables, "request_messages": messages}, template)
    return None if asked is None else asked[0]


@dataclass(frozen=True, slots=True)
class _Label:
    """One claim about what the right output for one input is."""

    key: str
    variables: Mapping[str, str]
    messages: tuple[Message, ...]
    expected: str
    provenance: str
    trust: Trust
    said_at: tuple[float, int]
    """When, in seconds since the epoch, and commit sequence."""
    trace_id: str | None = None

    @property
    def precedence(self) -> tuple[int, tuple[float, int]]:
        return -self.trust, self.said_at


def _imported(datasets: DatasetStore, template: PromptTemplate, splits: dict[str, Split]) -> Iterator[_Label]:
    """Imported rows as labels; their splits are put into `splits`."""
    for row in datasets.rows(template.template_id):
        if set(row.variables) != set(template.variables):
            continue  # imported for other variables than the template has now
        key = row.key
        if row.split is not None:
            splits[key] = row.split
        yield _Label(key, row.variables, row.messages, row.expected, "imported", Trust.IMPORTED, (0.0, 0))


def _said_about_traces(lake: Lake, template: PromptTemplate, outputs: Mapping[int, OutputFormat]) -> Iterator[_Label]:
    """Labels that people and teachers gave, and answers that are known to have worked out."""
    feedback = (
        lake.feedback(["seq", "trace_id", "kind", "value", "source", "created_at"])
        .filter(pl.col("kind").is_in([FeedbackKind.LABEL.value, FeedbackKind.OUTCOME.value]))
        .rename({"seq": "said_seq"})
        .collect()
    )
    # Filtering by id before the join lets the Parquet reader skip the payloads of all other traces.
    named = _traces(lake, template).filter(pl.col("trace_id").is_in(feedback["trace_id"].unique().implode())).collect()
    outcomes: dict[str, _Label | None] = {}
    for row in named.join(feedback, on="trace_id").sort("created_at", "said_seq").iter_rows(named=True):
        asked = _input(row, template)
        if asked is None:
            continue
        said_at = (row["created_at"].timestamp(), row["said_seq"])
        if row["kind"] == FeedbackKind.OUTCOME.value:
            answer = served_answer(row, outputs) if _decoded(row["value"], bool) else None
            # The latest word on a trace counts: an outcome may be taken back.
            outcomes[row["trace_id"]] = (
                None if answer is None else _Label(*asked, answer, "outcome", Trust.OUTCOME, said_at, row["trace_id"])
            )
            continue
        said = _decoded(row["value"], str)
        if said is not None and said.strip():
            teacher = str(row["source"]).startswith(TEACHER)
            provenance, trust = (row["source"], Trust.TEACHER) if teacher else ("human", Trust.HUMAN)
            yield _Label(*asked, said, provenance, trust, said_at, row["trace_id"])
    yield from (label for label in outcomes.values() if label is not None)


def _captured(
    lake: Lake, template: PromptTemplate, target: Target, outputs: Mapping[int, OutputFormat]
) -> Iterator[_Label]:
    """Answers served by the combination that the template names as its reference, unless it is the same model's.

    Answers that are known to have failed are out.
    """
    if template.reference is None or not template.reference.startswith(_CAPTURED):
        return
    combination = template.reference.removeprefix(_CAPTURED)
    failed = (
        lake.feedback(["seq", "trace_id", "kind", "value", "created_at"])
        .filter(pl.col("kind") == FeedbackKind.OUTCOME.value)
        .sort("created_at", "seq")
        .unique("trace_id", keep="last", maintain_order=True)
        .filter(pl.col("value") == "false")
    )
    rows = (
        _traces(lake, template)
        .filter(
            pl.col("combination_id") == combination,
            pl.col("outcome") == Outcome.COMPLETE.value,
            pl.col("model") != target.model,
        )
        .join(failed, on="trace_id", how="anti")
        .sort("seq")
        .collect()
    )
    for row in rows.iter_rows(named=True):
        asked, answer = _input(row, template), served_answer(row, outputs)
        if asked is not None and answer is not None:
            said_at = (row["started_at"].timestamp(), row["seq"])
            yield _Label(*asked, answer, template.reference, Trust.CAPTURED, said_at, row["trace_id"])


def _traces(lake: Lake, template: PromptTemplate) -> pl.LazyFrame:
    columns = ("seq", "trace_id", "started_at", "version", "combination_id", "model", "outcome", "finish_reason")
    return (
        lake.traces(["template_id", *columns, "variables", "request_messages", "response"])
        .filter(pl.col("template_id") == template.template_id)
        .drop("template_id")
    )


def _input(
    row: Mapping[str, object], template: PromptTemplate
) -> tuple[str, Mapping[str, str], tuple[Message, ...]] | None:
    """Key, variables and messages of what was asked; None when it was not kept or cannot be asked again."""
    given = _decoded(row["variables"], dict[str, str])
    messages = _decoded(row["request_messages"], tuple[Message, ...])
    if given is None or messages is None or any(name not in given for name in template.variables):
        return None
    variables = {name: given[name] for name in template.variables}
    if not variables and not messages:
        return None
    return input_key(variables, messages), variables, messages


def served_answer(row: Mapping[str, object], outputs: Mapping[int, OutputFormat]) -> str | None:
    """The text that a complete trace served; None for anything else."""
    if row["outcome"] != Outcome.COMPLETE.value:
        return None
    message = _decoded(row["response"], JsonObject)
    content = None if message is None else message.get("content")
    if isinstance(content, list):
        parts: list[JsonObject] = [part for part in content if isinstance(part, dict)]
        content = "".join(str(part.get("text", "")) for part in parts)
    if not isinstance(content, str):
        return None
    version, finish_reason = row["version"], row["finish_reason"]
    output = outputs.get(version, OutputFormat.BARE) if isinstance(version, int) else OutputFormat.BARE
    reading = read_answer(output, content, finish_reason=finish_reason if isinstance(finish_reason, str) else None)
    return reading.text if reading.parsed is not False and reading.text.strip() else None


def _decoded(text: object, kind: type[_T]) -> _T | None:
    """JSON text as `kind`, or None where there is none or it is something else."""
    if not isinstance(text, str):
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError:
        return None
