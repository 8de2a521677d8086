"""A study and its comparison as tables: the course of the search, what was combined, which test rows changed."""

from collections.abc import Sequence

import polars as pl

from rs_gateway.domain.errors import RouteSwitchError
from rs_pipelines.comparison import Comparison
from rs_pipelines.mipro.records import Candidate, StudyRecord
from rs_pipelines.report import candidate_name
from rs_pipelines.studies import StudyFiles


class NoStudyError(RouteSwitchError):
    """There is no study to look at."""

    code = "no_study"

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message alone, for nothing in the code is wrong."""
        return [str(self)]


def pick_study(studies: StudyFiles, *, key: str | None = None, study_id: str | None = None) -> StudyRecord:
    """The study that was started last, of those asked for; one that was compared goes before one that was not.

    Args:
        key: of the target, `template@model` as in the name of its folder; None: of any.
        study_id: None: of any.

    Raises:
        NoStudyError: there is none.
    """
    readable = studies.readable()
    found = [
        study
        for study in readable
        if (key is None or study.target.key == key) and (study_id is None or study.study_id == study_id)
    ]
    if not found:
        asked = " ".join(word for word in (study_id, key and f"of {key}") if word)
        there = ", ".join(sorted({study.target.key for study in readable}))
        raise NoStudyError(
            f"There is no study {asked}; targets with one: {there}."
            if there
            else "There is no study yet: `route-switch optimize TEMPLATE` makes one."
        )

    def place(study: StudyRecord) -> tuple[bool, str]:
        return studies.load_comparison(study.target, study.study_id) is not None, study.started_at

    return max(found, key=place)


def need_comparison(studies: StudyFiles, study: StudyRecord) -> Comparison:
    """The study's comparison on held-out rows. Raises NoStudyError: it was not compared yet."""
    comparison = studies.load_comparison(study.target, study.study_id)
    if comparison is None:
        raise NoStudyError(
            f"Study {study.study_id} was not compared yet: `route-switch optimize {study.target.template_id} --model "
            f"{study.target.model}` goes on."
        )
    return comparison


def study_summary(study: StudyRecord) -> pl.DataFrame:
    """What was searched, with what, and at which price: `what` and `value`."""
    ending = f"ended ({study.ending})" if study.finished else "under way, or interrupted"
    rows = [
        ("study", f"{study.study_id}, {ending}"),
        ("target", f"{study.target.template_id} on {study.target.model}, version {study.live_version} live"),
        ("started", study.started_at),
        ("sample", f"{study.sample_id}, {len(study.row_order)} validation rows"),
        ("evaluator", study.evaluator),
        ("tried", f"{len(study.instructions)} instructions x {len(study.demo_sets)} demo sets"),
        ("spent", f"{study.calls:,} calls, {study.input_tokens:,} input and {study.output_tokens:,} output tokens"),
        ("took", f"{study.seconds:.0f} s"),
    ]
    return pl.DataFrame(rows, schema={"what": pl.String(), "value": pl.String()}, orient="row")


def study_history(study: StudyRecord) -> pl.DataFrame:
    """One row for each evaluation that was not void, in order.

    Columns: `number`, `candidate` (in words), `rows` (that the value stands on), `all_rows` (whether these are all
    validation rows), `value`, `chosen` (whether it is the candidate that the study chose).
    """
    schema = pl.Schema(
        {
            "number": pl.Int64(),
            "candidate": pl.String(),
            "rows": pl.Int64(),
            "all_rows": pl.Boolean(),
            "value": pl.Float64(),
            "chosen": pl.Boolean(),
        }
    )
    rows = [
        (
            trial.number,
            candidate_name(study, trial.candidate),
            trial.n_rows,
            trial.n_rows >= len(study.row_order),
            trial.value,
            trial.candidate == study.best,
        )
        for trial in study.trials
        if trial.value is not None
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def instruction_demo_grid(study: StudyRecord) -> pl.DataFrame:
    """One row for each instruction x demo set, in the output format that did best on most rows; tried or not.

    Columns: `instruction`, `demo_set` (short names, as in `instructions` and `demo_sets`), `output_format`, `value`
    (mean over the rows seen; None: not tried), `rows`, `chosen`, `live`.
    """
    seen: dict[Candidate, list[float]] = {
        entry.candidate: known
        for entry in study.rows
        if (known := [value for value in entry.values if value is not None])
    }
    rows: list[tuple[str, str, str | None, float | None, int, bool, bool]] = []
    for i in range(len(study.instructions)):
        for d in range(len(study.demo_sets)):
            tried = [c for c in seen if (c.instruction, c.demo_set) == (i, d)]
            best = max(tried, key=lambda c: (c == study.best, len(seen[c]), sum(seen[c]) / len(seen[c])), default=None)
            rows.append(
                (
                    _instruction_name(study, i),
                    _demo_set_name(study, d),
                    None if best is None else study.output_formats[best.output_format].value,
                    None if best is None else sum(seen[best]) / len(seen[best]),
                    0 if best is None else len(seen[best]),
                    best is not None and best == study.best,
                    (i, d) == (0, 0),
                )
            )
    schema = {
        "instruction": pl.String(),
        "demo_set": pl.String(),
        "output_format": pl.String(),
        "value": pl.Float64(),
        "rows": pl.Int64(),
        "chosen": pl.Boolean(),
        "live": pl.Boolean(),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def instructions(study: StudyRecord) -> pl.DataFrame:
    """The instructions that the search combined: `instruction` (short name), `made_from` (likewise) and `text`."""
    rows = [
        (
            _instruction_name(study, i),
            None if instruction.parent is None else _instruction_name(study, instruction.parent),
            instruction.text,
        )
        for i, instruction in enumerate(study.instructions)
    ]
    schema = {"instruction": pl.String(), "made_from": pl.String(), "text": pl.String()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def chosen_demos(study: StudyRecord) -> pl.DataFrame:
    """The demos of the candidate that the study chose: `example_id`, `user`, `assistant`."""
    demos = study.demo_sets[study.best.demo_set].demos if study.demo_sets else ()
    rows = [(demo.example_id, demo.user, demo.assistant) for demo in demos]
    return pl.DataFrame(
        rows, schema={"example_id": pl.String(), "user": pl.String(), "assistant": pl.String()}, orient="row"
    )


def compared_rows(comparison: Comparison) -> pl.DataFrame:
    """One row for each test row: `example_id`, `outcome` (won, lost, tied or missing, for the candidate), `expected`,
    `live` and `candidate` (the outputs), `live_score` and `candidate_score`."""
    rows = [
        (
            row.example_id,
            row.outcome,
            row.expected,
            row.live_output,
            row.candidate_output,
            row.live_value,
            row.candidate_value,
        )
        for row in comparison.rows
    ]
    texts = ("example_id", "outcome", "expected", "live", "candidate")
    schema = {name: pl.String() for name in texts} | {"live_score": pl.Float64(), "candidate_score": pl.Float64()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def label_changes(comparison: Comparison) -> pl.DataFrame:
    """Mean scores by expected answer, largest change first; empty where the answers are no closed list.

    Columns: `label`, `rows`, `live`, `candidate`, `change`.
    """
    rows = [
        (change.label, change.n, change.mean_live, change.mean_candidate, change.mean_candidate - change.mean_live)
        for change in comparison.by_label
    ]
    numbers: Sequence[str] = ("live", "candidate", "change")
    schema = {"label": pl.String(), "rows": pl.Int64()} | {name: pl.Float64() for name in numbers}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("change", "label", descending=[True, False])


def _instruction_name(study: StudyRecord, index: int) -> str:
    return f"i{index} ({study.instructions[index].source})"


def _demo_set_name(study: StudyRecord, index: int) -> str:
    demo_set = study.demo_sets[index]
    if not demo_set.demos:
        return f"d{index} (no demos)"
    nearest = f", nearest {demo_set.nearest}" if demo_set.nearest else ""
    return f"d{index} ({len(demo_set.demos)} {demo_set.kind}{nearest})"
