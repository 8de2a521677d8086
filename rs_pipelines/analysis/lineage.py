"""From a version back to its rows: version, publication, comparison, study, trials, examples, traces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec
import polars as pl

from rs_gateway.domain.errors import StoreError, TemplateNotFoundError
from rs_gateway.domain.ports import PromptRegistry
from rs_gateway.domain.prompts import PromptVersion
from rs_gateway.domain.publication import Action, Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_pipelines.comparison import Comparison
from rs_pipelines.lake import Lake
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.packages.provenance import study_stores
from rs_pipelines.report import candidate_name, verdict_line
from rs_pipelines.sample import CalibrationSample, Split, Target
from rs_pipelines.studies import StudyFiles
from rs_pipelines.workbench import Workbench

_T = TypeVar("_T")
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Lineage:
    """What is known of where a version came from.

    Attributes:
        changes: what made it live, oldest first; empty for a draft.
        comparison, study, sample: None where a person wrote the version, or where it is lost.
        gaps: for each record that should be there and is not, or is no longer what it was, a sentence.
    """

    template_id: str
    version: PromptVersion
    changes: tuple[Change, ...]
    comparison: Comparison | None
    study: StudyRecord | None
    sample: CalibrationSample | None
    gaps: tuple[str, ...]


def follow_back(bench: Workbench, template_id: str, number: int) -> Lineage:
    """Everything behind a version, as far as it is there. Raises RegistryError: there is no such version."""
    registered = bench.registry.get(template_id)
    version = _version_of(registered, number)
    changes = tuple(c for c in registered.history if c.version == number and c.action is not Action.WEIGHT)
    origin, gaps = version.origin, list[str]()
    if origin.study_id is None or version.model is None:
        return Lineage(template_id, version, changes, None, None, None, ())
    target = Target(template_id, version.model)
    files = _store_of(bench, target, origin.study_id)
    study = _kept(lambda: files.load_study(target, origin.study_id or ""), gaps)
    if study is None:
        gaps.append(f"Study {origin.study_id} of {target.key} is not in {bench.data / 'studies'}.")
    comparison = _kept(lambda: files.load_comparison(target, origin.study_id or ""), gaps)
    if comparison is None:
        gaps.append(f"The comparison of study {origin.study_id} is not in {bench.data / 'studies'}.")
    elif comparison.content_digest != comparison.comparison_id:
        gaps.append(f"Comparison {comparison.comparison_id} was changed since it was made: its rows are no proof.")
    elif comparison.comparison_id != origin.comparison_id:
        gaps.append(f"The study was compared again since: the proof was comparison {origin.comparison_id}.")
    sample = None if study is None else _kept(lambda: bench.samples.load(target, study.sample_id), gaps)
    return Lineage(template_id, version, changes, comparison, study, sample, tuple(gaps))


def pick_version(
    registry: PromptRegistry, *, template_id: str | None = None, number: int | None = None
) -> tuple[str, int]:
    """Template and number of the version that a proof made live last; where none has, of the one made live last.

    Args:
        template_id: None: of any template.
        number: this version, whatever became of it; None: as above.

    Raises:
        RegistryError: there is no such template or version, or none at all.
    """
    if template_id is not None and number is not None:
        return template_id, _version_of(registry.get(template_id), number).number
    if number is not None:
        raise TemplateNotFoundError(f"Version {number} of which template? Name it.")
    templates = registry.load().templates if template_id is None else {template_id: registry.get(template_id)}
    made_live = [
        (change.comparison_id is not None, change.at, name, change.version)
        for name, registered in templates.items()
        for change in registered.history
        if change.version is not None
    ]
    if not made_live:
        raise TemplateNotFoundError(
            "No version was ever made live here. `route-switch template register FILE` makes the first one."
        )
    _, _, name, made = max(made_live)
    return name, made


def chain(lineage: Lineage) -> pl.DataFrame:
    """The way back, a row a step: `step`, `id`, `what`."""
    version, study, sample = lineage.version, lineage.study, lineage.sample
    origin = version.origin
    rows: list[tuple[str, str | None, str]] = [
        (
            "version",
            f"{lineage.template_id} v{version.number}",
            f"for {version.model or 'every model'}, made by {origin.by} at {origin.at}",
        )
    ]
    rows += [(change.action.value, change.at, f"by {change.by}: {change.reason}") for change in lineage.changes]
    if not lineage.changes:
        rows.append(("publication", None, "none: it is a draft"))
    if origin.study_id is None:
        rows.append(("study", None, f"none: {origin.by} wrote it ({origin.note or 'without a note'})"))
    if lineage.comparison is not None:
        rows.append(("comparison", lineage.comparison.comparison_id, verdict_line(lineage.comparison)))
    if study is not None:
        chosen = candidate_name(study, study.best) if study.instructions else "nothing yet"
        rows.append(("study", study.study_id, f"started {study.started_at}, {study.calls} calls, chose {chosen}"))
        voids = sum(trial.value is None for trial in study.trials)
        rows.append(("trials", None, f"{len(study.trials)} evaluations, {voids} of them void"))
    if sample is not None:
        sides = ", ".join(f"{len(sample.rows(split))} {split}" for split in Split)
        rows.append(("examples", sample.sample_id, sides))
        traced = sum(example.trace_id is not None for example in sample.examples)
        rows.append(("traces", None, f"{traced} of {len(sample.examples)} examples came from one"))
    rows += [("gap", None, gap) for gap in lineage.gaps]
    return pl.DataFrame(rows, schema={"step": pl.String(), "id": pl.String(), "what": pl.String()}, orient="row")


def examples_behind(lineage: Lineage) -> pl.DataFrame:
    """The rows that the version was searched on and proved on, and the demos in its prompt, which come first.

    Columns: `example_id`, `use` (demo, train, val or test), `provenance` (of a demo that is not in the sample:
    `earlier sample`, or `by hand` where no example was its source), `expected`, `outcome` (of a test row), `trace_id`.
    """
    demos = {demo.example_id for demo in lineage.version.text.demos}
    examples = () if lineage.sample is None else lineage.sample.examples
    outcomes = {row.example_id: row.outcome for row in lineage.comparison.rows} if lineage.comparison else {}
    sampled = {example.example_id for example in examples}
    rows: list[tuple[str | None, ...]] = [
        (
            demo.example_id,
            "demo",
            "by hand" if demo.example_id is None else "earlier sample",
            demo.assistant,
            None,
            None,
        )
        for demo in lineage.version.text.demos
        if demo.example_id not in sampled
    ]
    rows += [
        (
            example.example_id,
            "demo" if example.example_id in demos else example.split.value,
            example.provenance,
            example.expected,
            outcomes.get(example.example_id),
            example.trace_id,
        )
        for example in examples
    ]
    names = ("example_id", "use", "provenance", "expected", "outcome", "trace_id")
    order = ["demo", *(split.value for split in Split)]
    return pl.DataFrame(rows, schema={name: pl.String() for name in names}, orient="row").sort(
        pl.col("use").replace_strict(order, range(len(order)), return_dtype=pl.Int64()), "example_id"
    )


def traces_behind(lake: Lake, examples: pl.DataFrame) -> pl.DataFrame:
    """The traces that examples came from, as far as the lake still has them, oldest first.

    Columns: `trace_id`, `started_at`, `use`, `expected`, `version` and `model` (that answered then), `asked` and
    `answered` (text, cut after 200 characters; None where the payload was not kept).
    """
    named = examples.filter(pl.col("trace_id").is_not_null()).select("trace_id", "use", "expected")
    columns = ["trace_id", "started_at", "version", "model", "variables", "request_messages", "response"]
    chosen = pl.col("trace_id").is_in(named["trace_id"].unique().implode())
    found = lake.settled(lambda: lake.traces(columns).filter(chosen).collect())
    texts = [
        (row["trace_id"], _asked(row["variables"], row["request_messages"]), _content(row["response"]))
        for row in found.iter_rows(named=True)
    ]
    said = pl.DataFrame(texts, schema={name: pl.String() for name in ("trace_id", "asked", "answered")}, orient="row")
    return (
        named.join(found.select("trace_id", "started_at", "version", "model"), on="trace_id")
        .join(said, on="trace_id")
        .select("trace_id", "started_at", "use", "expected", "version", "model", "asked", "answered")
        .sort("started_at", "trace_id")
    )


def times_made_live(registered: RegisteredTemplate) -> pl.DataFrame:
    """What was made live, oldest first: `at` (UTC), `version`, `model` (None: every one), `action`, `by`, `proven`."""
    rows = [
        (
            datetime.fromisoformat(change.at),
            change.version,
            change.model,
            change.action.value,
            change.by,
            change.comparison_id is not None,
        )
        for change in registered.history
        if change.version is not None
    ]
    schema = {
        "at": pl.Datetime("us", "UTC"),
        "version": pl.Int64(),
        "model": pl.String(),
        "action": pl.String(),
        "by": pl.String(),
        "proven": pl.Boolean(),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _version_of(registered: RegisteredTemplate, number: int) -> PromptVersion:
    if number not in registered.versions:
        raise TemplateNotFoundError(
            f"Template {registered.template.template_id!r} has no version {number}: "
            f"name one of {', '.join(map(str, registered.versions))}."
        )
    return registered.versions[number]


def _store_of(bench: Workbench, target: Target, study_id: str) -> StudyFiles:
    """Where a study lies: among those made here, else among the records of an imported package."""
    stores = study_stores(bench.data, bench.studies, target.template_id)
    return next((store for store in stores if store.directory(target, study_id).is_dir()), bench.studies)


def _kept(load: Callable[[], _T], gaps: list[str]) -> _T | None:
    """What `load` returns; where it cannot be read, None, and a gap says why."""
    try:
        return load()
    except StoreError as error:
        gaps.append(str(error))
        return None


def _asked(variables: str | None, messages: str | None) -> str | None:
    """The variables' values and what the client said itself, in one line."""
    if variables is None or messages is None:
        return None
    said: Sequence[object] = [
        *msgspec.json.decode(variables, type=dict[str, object]).values(),
        *(message.get("content") for message in msgspec.json.decode(messages, type=list[dict[str, object]])),
    ]
    return _cut(" / ".join(word if isinstance(word, str) else msgspec.json.encode(word).decode() for word in said))


def _content(response: str | None) -> str | None:
    content = None if response is None else msgspec.json.decode(response, type=dict[str, object]).get("content")
    if content is None:
        return None
    return _cut(content if isinstance(content, str) else msgspec.json.encode(content).decode())


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]} ..."
