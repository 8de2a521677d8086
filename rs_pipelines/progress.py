"""What a person at a terminal sees of a run; silent where nobody looks."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rs_gateway.domain.wording import counted
from rs_pipelines.compaction import CompactionReport
from rs_pipelines.comparison import Comparison
from rs_pipelines.gate import ComparedRow
from rs_pipelines.ingest import IngestReport
from rs_pipelines.mipro.events import (
    FullEvaluation,
    InstructionsReady,
    LookTaken,
    Proposing,
    Revising,
    RowsScored,
    SecondRoundReady,
    StudyOpened,
    TrialFinished,
)
from rs_pipelines.mipro.records import StudyRecord
from rs_pipelines.preflight import Preflight
from rs_pipelines.report import (
    call_changes,
    leader_columns,
    leaders,
    look_words,
    preflight_lines,
    provenance_line,
    shortened,
    study_notes,
    verdict_line,
)
from rs_pipelines.sample import CalibrationSample, Example, Split
from rs_pipelines.step_events import Event, Ingesting, Paused, Probing, RowsCompared

_SHOWN_TRIALS = 20
_UNKNOWN: Mapping[str, Example] = {}
_MANY_ROWS = 200_000
"""An ingest of fewer is over before a line about it helps."""


class RunProgress:
    """A bar for what is under way and a line for what is done. Use as a context manager and as a Watcher."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._races, self._tenths = False, 0

    def __enter__(self) -> "RunProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def bar(self, description: str, done: int, total: int) -> None:
        """Show one bar; a new description replaces the bar before."""
        if self._task is None or self._bars.tasks[0].description != description:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(description, total=total)
        self._bars.update(self._task, completed=done, total=total)

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)

    def merged(self, report: CompactionReport) -> None:
        """Watch a compaction."""
        self.say(f"merged {report.merged} small files into {report.into}")

    def __call__(self, event: Event) -> None:
        """Watch a run."""
        match event:
            case Ingesting():
                self.bar("rows", event.done, event.total)
                if event.total >= _MANY_ROWS and 10 * event.done // event.total > self._tenths:
                    self._tenths = 10 * event.done // event.total
                    self.say(f"ingest: {event.done:,} of about {event.total:,} rows")
            case IngestReport():
                self._tenths = 0
                self.say(f"ingested {counted(event.rows, 'trace')} and {counted(event.feedback_rows, 'feedback row')}")
            case CalibrationSample():
                sides = ", ".join(f"{len(event.rows(split))} {split.value}" for split in Split)
                self.say(f"calibration sample: {sides}")
            case Probing():
                self.say(f"pre-flight: asking the live prompt at most {event.calls} times")
            case Preflight():
                print_preflight(self._console, event)
            case StudyOpened():
                done = counted(event.trials_done, "evaluation")
                resumed = f"; going on after {done}" if event.trials_done else ""
                self.say(f"study {event.study_id}: search of at most about {event.estimated_calls} calls{resumed}")
                if len(event.output_formats) > 1:
                    self.say(f"output formats: {', '.join(event.output_formats)}")
            case Proposing():
                self.say(f"asking the prompt model for {counted(event.n_proposals, 'instruction')}")
            case InstructionsReady():
                self.say(f"{event.n_instructions} instructions ({event.n_proposed} proposed by the prompt model)")
            case Revising():
                self.say(f"showing the prompt model {counted(event.n_failures, 'failure')} of the leader")
            case SecondRoundReady():
                self.say(f"second round: {event.n_revised} more instructions")
            case RowsScored() if event.kind == "minibatch" and self._races:
                pass  # the race has a bar of its own
            case RowsScored():
                whole = "validation rows" if event.kind == "full" else "minibatch"
                self.bar(whole, event.done, event.total)
            case TrialFinished():
                value = "void" if event.trial.value is None else f"{event.trial.value:.3f}"
                best = "" if event.best is None else f"; best in full so far {event.best:.3f}"
                self.say(f"trial {event.number}/{event.total}: {value} on {event.trial.n_rows} rows{best}")
            case LookTaken():
                self._races = True
                self.bar("search", event.done, event.total)
                if 10 * event.done // event.total > self._tenths:  # a line for every look would be a hundred lines
                    self._tenths = 10 * event.done // event.total
                    self.say(f"search: {event.done} of at most {event.total} rows; {look_words(event.trial)}")
            case FullEvaluation():
                value = "void" if event.trial.value is None else f"{event.trial.value:.3f}"
                self.say(f"full evaluation: {value} on {event.trial.n_rows} validation rows")
            case Paused():
                self.say("going on" if event.why is None else f"waiting for production: {event.why}")
            case RowsCompared():
                self.bar("held-out rows", event.done, event.total)
            case _:
                pass


def print_preflight(console: Console, preflight: Preflight) -> None:
    """What can be proven and what it costs, before the search."""
    table = Table(title="Pre-flight", title_justify="left", show_header=False)
    styles = {"warning": "yellow", "refused": "bold red"}
    for what, words in preflight_lines(preflight):
        table.add_row(what, Text(words), style=styles.get(what))
    console.print(table)


def print_study(console: Console, study: StudyRecord) -> None:
    """The leading candidates, how the choice among them was made, and the study's course."""
    table = Table(*leader_columns(study), title="Study: leading candidates (* chosen)", title_justify="left")
    for leader in leaders(study, limit=6):
        table.add_row(*leader.cells(study))
    console.print(table)
    for note in study_notes(study):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    width = 40
    valid = [trial for trial in study.trials if trial.value is not None]
    every = -(-len(valid) // _SHOWN_TRIALS)
    which = "every evaluation" if every <= 1 else f"one evaluation in {every}"
    console.print(f"Study: {which}, in order (# all validation rows, = some of them)", highlight=False)
    for trial in valid[:: max(every, 1)]:
        assert trial.value is not None
        mark = "#" if trial.kind == "full" else "="
        filled = round(trial.value * width)
        console.print(
            f"  {trial.number:3d} {mark * filled}{'.' * (width - filled)} {trial.value:.3f}",
            highlight=False,
            markup=False,
        )


def print_comparison(
    console: Console,
    comparison: Comparison,
    *,
    published: int | None,
    reasons: Sequence[str] | None = None,
    show_rows: int = 0,
    examples: Mapping[str, Example] = _UNKNOWN,
) -> None:
    """Before and after on the held-out rows, and the verdict.

    Args:
        reasons: why nothing was published; None stands for the verdict's own.
        show_rows: rows won, and as many lost, that are shown with input and both outputs.
        examples: example id -> the test row; without it the input stays empty.
    """
    verdict = comparison.verdict
    table = Table("", "live version", "candidate", title="Comparison on held-out rows", title_justify="left")
    table.add_row("mean score", f"{verdict.mean_live:.3f}", f"{verdict.mean_candidate:.3f}")
    for what, live, candidate in call_changes(comparison):
        table.add_row(what, live, candidate)
    table.add_row("rows won / lost", "", f"{verdict.won} / {verdict.lost} of {verdict.n}")
    console.print(table)
    if comparison.by_label:
        labels = Table("expected", "rows", "live version", "candidate", title="By label", title_justify="left")
        for change in comparison.by_label:
            labels.add_row(Text(change.label), str(change.n), f"{change.mean_live:.3f}", f"{change.mean_candidate:.3f}")
        console.print(labels)
    if show_rows:
        _print_rows(console, "Rows won", comparison.rows_with("won"), examples, limit=show_rows)
        _print_rows(console, "Rows lost", comparison.rows_with("lost"), examples, limit=show_rows)
    console.print(verdict_line(comparison), highlight=False, soft_wrap=True)
    vouched = provenance_line(comparison)
    if vouched is not None:
        console.print(vouched, highlight=False, markup=False, soft_wrap=True)
    if published is not None:
        console.print(f"published as version {published}", style="bold green", highlight=False)
    else:
        console.print("nothing published", style="bold yellow", highlight=False)
        for reason in verdict.reasons if reasons is None else reasons:
            console.print(f"  - {reason}", highlight=False, markup=False, soft_wrap=True)


def _print_rows(
    console: Console, title: str, rows: Sequence[ComparedRow], examples: Mapping[str, Example], *, limit: int
) -> None:
    if not rows:
        return
    shown = f"{title} ({min(limit, len(rows))} of {len(rows)})"
    columns = ("input", "expected", "live version", "candidate")
    table = Table(*columns, title=shown, title_justify="left", show_lines=True)
    for row in rows[:limit]:
        asked = shortened(examples[row.example_id].input_text) if row.example_id in examples else ""
        table.add_row(*map(Text, (asked, row.expected, row.live_output or "", row.candidate_output or "")))
    console.print(table)
