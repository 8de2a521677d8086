"""Traces, feedback and imported rows become labelled examples, and examples become the sample of one optimisation."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

import msgspec
import polars as pl

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.domain.chat import JsonObject, Message
from rs_gateway.domain.errors import ConfigurationError, RouteSwitchError, StoreError
from rs_gateway.domain.feedback import FeedbackKind
from rs_gateway.domain.output_formats import OutputFormat, read_answer
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.domain.traces import Outcome
from rs_pipelines.datasets import DatasetStore
from rs_pipelines.durable_files import put_in_place, temporary_for, write_durably
from rs_pipelines.inputs import example_id, input_key, split_of
from rs_pipelines.lake import Lake
from rs_pipelines.sample import CalibrationSample, Example, Split, Target, sample_of

MIN_PER_SPLIT = 10
"""Fewer rows on any side cannot prove a gain: exact McNemar at 2.5 % needs six rows won and none lost."""
_CAPTURED = "captured:"
_TEACHER = "teacher:"
_ALL_BARE: Mapping[int, OutputFormat] = {}
_T = TypeVar("_T")


class Trust(IntEnum):
    """How far a label's provenance is trusted; a smaller number is trusted more."""

    HUMAN = 0
    IMPORTED = 1
    OUTCOME = 2
    TEACHER = 3
    CAPTURED = 4


class LabelShortageError(RouteSwitchError):
    """Too few labelled examples to search on and to prove anything with.

    Attributes:
        by_provenance, by_split: how many there are.
    """

    code = "no_labels"

    def __init__(
        self,
        target: Target,
        examples: Iterable[Example],
        *,
        min_per_split: int,
        door: "FeedbackDoor",
        own_answers: int = 0,
    ) -> None:
        examples, template_id = tuple(examples), target.template_id
        self.template_id = template_id
        self.by_provenance = Counter(e.provenance for e in examples)
        self.by_split = {split: sum(e.split is split for e in examples) for split in Split}
        origins = ", ".join(f"{n} {provenance}" for provenance, n in sorted(self.by_provenance.items()))
        sides = ", ".join(f"{split} {n}" for split, n in self.by_split.items())
        own = (
            f"Of {own_answers} more only {_TEACHER}{target.model} says what is right: no model is tuned, or judged, by "
            "its own answers.\n"
            if own_answers
            else ""
        )
        super().__init__(
            f"Template {template_id!r} has {len(examples)} labelled examples ({origins or 'none'}; {sides}); "
            f"at least {min_per_split} in each of train, val and test are needed.\n{own}"
            "Label answers by the trace id in their `x-route-switch-trace-id` header, then ingest:\n"
            f"  {door.command}\n"
            'or import a file of lines such as {"variables": {...}, "expected": "..."}:\n'
            f"  route-switch dataset import {template_id} FILE.jsonl"
        )


@dataclass(frozen=True, slots=True)
class FeedbackDoor:
    """Where people send labels.

    Attributes:
        url: the gateway's address.
        needs_key: whether it lets nobody in without a client key.
    """

    url: str
    needs_key: bool

    @property
    def command(self) -> str:
        """A label as a command for the shell, with capitals where something is to be filled in."""
        label = {"trace_id": "TRACE_ID", "kind": "label", "value": "THE RIGHT OUTPUT", "source": "human"}
        key = "-H 'Authorization: Bearer CLIENT_KEY' " if self.needs_key else ""
        return f"curl -X POST {self.url}/v1/feedback {key}-H 'Content-Type: application/json' -d '{json.dumps(label)}'"


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


def build_examples(
    target: Target,
    template: PromptTemplate,
    *,
    lake: Lake,
    datasets: DatasetStore,
    outputs: Mapping[int, OutputFormat] = _ALL_BARE,
) -> tuple[Example, ...]:
    """The examples that `gather` finds."""
    return gather(target, template, lake=lake, datasets=datasets, outputs=outputs).examples


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
        if label.provenance == f"{_TEACHER}{target.model}":
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


def draw_sample(
    target: Target,
    examples: Sequence[Example],
    *,
    max_records: int,
    seed: int,
    door: FeedbackDoor,
    min_per_split: int = MIN_PER_SPLIT,
    own_answers: int = 0,
) -> CalibrationSample:
    """At most `max_records` of the examples, with the splits in proportion, in an order that only `seed` decides.

    Where not all test rows find room, those that a person vouches for come first: the proof rests on them.
    A larger `max_records` with the same seed keeps the rows of a smaller one, as far as proportions allow.

    Args:
        door: where more labels can be sent, for the one who has too few.
        own_answers: inputs that have only a label of the target's own model, for the same one to know.

    Raises:
        LabelShortageError: fewer than `min_per_split` examples in a split.
        ConfigurationError: `max_records` has no room for `min_per_split` rows in each split.
    """
    sides = {split: [e for e in examples if e.split is split] for split in Split}
    if any(len(side) < min_per_split for side in sides.values()):
        raise LabelShortageError(target, examples, min_per_split=min_per_split, door=door, own_answers=own_answers)
    if max_records < max(1, min_per_split) * len(Split):
        raise ConfigurationError(
            f"A sample of at most {max_records} records has no room for {max(1, min_per_split)} in each of train, val "
            f"and test: allow at least {max(1, min_per_split) * len(Split)}."
        )
    quotas = _quotas({split: len(side) for split, side in sides.items()}, max_records, min_per_split)

    def place(example: Example) -> tuple[bool, str]:
        return example.split is Split.TEST and not example.is_vouched_for, _draw(seed, example)

    chosen = [example for split in Split for example in sorted(sides[split], key=place)[: quotas[split]]]
    return sample_of(target.template_id, target.model, tuple(chosen))


FORGOTTEN = "forgotten"
"""Provenance of a row that had to go: its input and its label are empty."""
SAMPLE_SCHEMA = FileSchema("folder of samples", "data_dir")
"""What the files look like as a whole, and how older ones get there. Forward only: append, never edit."""


class SampleStore:
    """Calibration samples as Parquet: `<target key>/<sample_id>.parquet`; `latest` names the last one saved."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, sample: CalibrationSample) -> Path:
        """Keep the sample and make it its target's latest; returns its file."""
        SAMPLE_SCHEMA.migrate(self.root)
        folder = self.root / Target(sample.template_id, sample.model).key
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{sample.sample_id}.parquet"
        rows = [
            (
                e.example_id,
                json.dumps(dict(e.variables), ensure_ascii=False),
                json.dumps(e.messages, ensure_ascii=False),
                e.expected,
                e.provenance,
                e.split.value,
                e.trace_id,
            )
            for e in sample.examples
        ]
        temporary = temporary_for(path)
        pl.DataFrame(rows, schema=SAMPLE_COLUMNS, orient="row").write_parquet(temporary)
        put_in_place(temporary, path)
        write_durably(folder / "latest", sample.sample_id.encode())
        return path

    def load(self, target: Target, sample_id: str) -> CalibrationSample:
        """A saved sample. Raises StoreError when there is none, or its content is no longer what its id says."""
        SAMPLE_SCHEMA.migrate(self.root)
        path = self.root / target.key / f"{sample_id}.parquet"
        if not path.exists():
            raise StoreError(f"There is no sample {sample_id} of {target.key} in {self.root}.")
        frame = _read_sample(path)
        examples = tuple(
            Example(
                example_id=row["example_id"],
                variables=json.loads(row["variables"]),
                messages=tuple(json.loads(row["messages"])),
                expected=row["expected"],
                provenance=row["provenance"],
                split=Split(row["split"]),
                trace_id=row["trace_id"],
            )
            for row in frame.iter_rows(named=True)
        )
        if any(example.provenance == FORGOTTEN for example in examples):
            raise StoreError(f"Rows of sample {sample_id} of {target.key} were forgotten: draw the sample again.")
        sample = sample_of(target.template_id, target.model, examples)
        if sample.sample_id != sample_id:
            raise StoreError(f"{path} was changed: its rows make sample {sample.sample_id}. Draw the sample again.")
        return sample

    def origins(self) -> Mapping[Path, Mapping[str, str | None]]:
        """Of all samples: file -> (example id -> trace id, None for imported rows), forgotten rows left out."""
        return {
            path: {
                row["example_id"]: row["trace_id"]
                for row in _read_sample(path).filter(pl.col("provenance") != FORGOTTEN).iter_rows(named=True)
            }
            for path in sorted(self.root.glob("*/*.parquet"))
        }

    def texts(self, path: Path, example_ids: Collection[str]) -> set[str]:
        """The expected outputs of these examples in one sample."""
        return set(_read_sample(path).filter(pl.col("example_id").is_in(list(example_ids)))["expected"])

    def forget(self, path: Path, example_ids: Collection[str]) -> None:
        """Empty these rows of one sample. It can still be traced, and cannot be searched with any more."""
        gone = pl.col("example_id").is_in(list(example_ids))
        emptied = {"variables": "{}", "messages": "[]", "expected": "", "provenance": FORGOTTEN}
        frame = _read_sample(path).with_columns(
            *(pl.when(gone).then(pl.lit(text)).otherwise(pl.col(name)).alias(name) for name, text in emptied.items()),
            pl.when(gone).then(None).otherwise(pl.col("trace_id")).alias("trace_id"),
        )
        temporary = temporary_for(path)
        frame.select(SAMPLE_COLUMNS.names()).write_parquet(temporary)
        put_in_place(temporary, path)

    def latest(self, target: Target) -> CalibrationSample | None:
        """The sample of `target` saved last, or None when there is none."""
        try:
            sample_id = (self.root / target.key / "latest").read_text().strip()
        except FileNotFoundError:
            return None
        return self.load(target, sample_id)


SAMPLE_COLUMNS = pl.Schema(
    {
        "example_id": pl.String(),
        "variables": pl.String(),
        "messages": pl.String(),
        "expected": pl.String(),
        "provenance": pl.String(),
        "split": pl.String(),
        "trace_id": pl.String(),
    }
)


def _read_sample(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path, glob=False, hive_partitioning=False)


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
            teacher = str(row["source"]).startswith(_TEACHER)
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


def _draw(seed: int, example: Example) -> str:
    return hashlib.sha256(f"{seed}:{example.example_id}".encode()).hexdigest()


def _quotas(counts: Mapping[Split, int], max_records: int, minimum: int) -> dict[Split, int]:
    """How many rows of each split to take: proportional, whole, and at least `minimum` each."""
    total = sum(counts.values())
    if total <= max_records:
        return dict(counts)
    exact = {split: max_records * n / total for split, n in counts.items()}
    quotas = {split: max(minimum, int(share)) for split, share in exact.items()}
    while (spare := max_records - sum(quotas.values())) != 0:
        step = 1 if spare > 0 else -1
        movable = [s for s in quotas if (quotas[s] < counts[s] if step > 0 else quotas[s] > minimum)]
        split = max(movable, key=lambda s: step * (exact[s] - quotas[s]))
        quotas[split] += step
    return quotas
