"""The second round: the prompt model sees what the leaders score and where the best one fails, and writes again.

Failures are train rows. Nothing of a validation row but scores gets to the prompt model: what it saw there would come
back in an instruction, and the rows that judge would no longer be unseen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import Demo, PromptText
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.mipro.budget import DRAWS_PER_PROPOSAL, REVISION_ROWS, StudyPlan
from rs_pipelines.mipro.demos import DemoRow, Screening, demo_set_of, draw_diverse, screen_train_rows
from rs_pipelines.mipro.estimates import GainEstimates, RowValues
from rs_pipelines.mipro.instructions import as_read, ask_for_text, checked_proposal, request_for_instruction, shortened
from rs_pipelines.mipro.records import LIVE, Candidate, Instruction, StudyRecord
from rs_pipelines.sample import Example
from rs_pipelines.scoring import score_rows

_LEADERS_SHOWN = 4
_FAILURES_SHOWN = 8
_FAILURES_WANTED = 5
_TRIED_AT_ONCE = 16
_LONGEST_OUTPUT = 300
_FIRST_SALT = 1_000
_TIPS = (
    "Find out what the mistakes have in common, and say the rule that avoids them.",
    "Say exactly what an answer may look like, so that none of these mistakes can be made.",
    "Keep what the best instruction does well, and add what is needed in such cases, in few words.",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A train row that the leader got wrong, and what it answered."""

    row: DemoRow
    got: str


@dataclass(frozen=True, slots=True)
class Standing:
    """An instruction's best candidate so far, and what it is believed to score."""

    candidate: Candidate
    score: float


def standings(results: Mapping[Candidate, RowValues]) -> list[Standing]:
    """The best candidate of every instruction that was looked at, the highest first.

    Scores are the live version's mean with the estimated gain, so that few lucky rows make no leader.

    Args:
        results: row-level results so far, the live version's among them.
    """
    estimates = GainEstimates(results)
    present = [value for value in results[LIVE].values() if value is not None]
    live = sum(present) / len(present)
    best: dict[int, Standing] = {}
    for candidate in sorted(results):
        standing = Standing(candidate, live + estimates.gain(candidate))
        if candidate.instruction not in best or standing.score > best[candidate.instruction].score:
            best[candidate.instruction] = standing
    return sorted(best.values(), key=lambda standing: (-standing.score, standing.candidate))


def rows_to_try(screening: Screening, shown: Sequence[Demo]) -> list[DemoRow]:
    """At most 32 train rows that a prompt is likely to fail on: those that the model got wrong, then untried ones.

    Args:
        shown: the prompt's demos; a model that reads the answer proves nothing.
    """
    known = {row.demo.user for row in (*screening.wrong, *screening.right)}
    untried = [row for row in screening.rows if row.demo.user not in known]
    inputs, ids = {demo.user for demo in shown}, {demo.example_id for demo in shown}
    ordered = [*screening.wrong, *untried, *screening.right]
    return [row for row in ordered if row.demo.user not in inputs and row.demo.example_id not in ids][:REVISION_ROWS]


async def revised_record(
    record: StudyRecord,
    results: Mapping[Candidate, RowValues],
    train: Sequence[Example],
    *,
    base: PromptText,
    task: CachedModel,
    prompt: CachedModel,
    evaluator: Evaluator,
    on_failures: Callable[[int], None],
) -> StudyRecord:
    """The record with new instructions that the leader's failures led to, and with its demos in another order.

    What was there keeps its place. Without a failure, or when all proposals are refused, only the order is new.

    Args:
        train: train rows as prompts may show them (`redacted_examples`).
        base: the live version, bare (`without_format`).
        on_failures: told how many failures the prompt model will see, if any.

    Raises:
        BudgetExhaustedError: before it was complete; answers so far are in the cache.
    """
    ranked = standings(results)
    leader = ranked[0].candidate
    shown = record.demo_sets[leader.demo_set].demos
    screening = await screen_train_rows(
        record.live_text,
        train,
        template_id=record.target.template_id,
        plan=record.plan,
        model=task,
        evaluator=evaluator,
    )
    failures = await _failures(record, leader, rows_to_try(screening, shown), train, model=task, evaluator=evaluator)
    instructions = list(record.instructions)
    if failures:
        on_failures(len(failures))
        for place in range(record.plan.num_revisions):
            known = _known(ranked, failures, [instruction.text for instruction in instructions])
            revision = await _revision(
                known, base, screening.rows, place, others=instructions, plan=record.plan, model=prompt
            )
            if revision is not None:
                instructions.append(Instruction(revision, "revised", leader.instruction))
    demo_sets = record.demo_sets
    other_order = demo_set_of("reordered", reversed(shown))
    by_likeness = record.demo_sets[leader.demo_set].nearest  # has no order that could be another one
    if not by_likeness and all(other_order.demos != demo_set.demos for demo_set in demo_sets):
        demo_sets = (*demo_sets, other_order)
    return replace(record, instructions=tuple(instructions), demo_sets=demo_sets)


async def _failures(
    record: StudyRecord,
    leader: Candidate,
    rows: Sequence[DemoRow],
    train: Sequence[Example],
    *,
    model: CachedModel,
    evaluator: Evaluator,
) -> list[Failure]:
    """Rows that the leader gets wrong, at most eight, as different as can be; it is tried until there are five."""
    by_id = {example.example_id: example for example in train}
    got: dict[str, str] = {}
    for start in range(0, len(rows), _TRIED_AT_ONCE):
        tried = rows[start : start + _TRIED_AT_ONCE]
        scores = await score_rows(
            record.text_of(leader),
            [by_id[row.demo.example_id or ""] for row in tried],
            template_id=record.target.template_id,
            model=model,
            evaluator=evaluator,
        )
        wrong = [(row, score) for row, score in zip(tried, scores, strict=True) if score.passed is False]
        got.update({row.demo.user: score.output or "" for row, score in wrong})
        if len(got) >= _FAILURES_WANTED:
            break
    shown = draw_diverse([row for row in rows if row.demo.user in got], _FAILURES_SHOWN)
    return [Failure(row, got[row.demo.user]) for row in shown]


async def _revision(
    known: str,
    base: PromptText,
    rows: Sequence[DemoRow],
    place: int,
    *,
    others: Sequence[Instruction],
    plan: StudyPlan,
    model: CachedModel,
) -> str | None:
    """One new instruction; None when the prompt model fails, or writes nothing that can be used."""
    wanted = f"Write an instruction that scores higher. {_TIPS[place % len(_TIPS)]}"
    question = request_for_instruction(known, wanted, base)
    for draw in range(DRAWS_PER_PROPOSAL):
        raw = await ask_for_text(model, question, salt=_FIRST_SALT + place * DRAWS_PER_PROPOSAL + draw)
        proposal = checked_proposal(raw, base, rows, others=[instruction.text for instruction in others])
        if proposal is not None:
            return proposal
    return None


def _known(ranked: Sequence[Standing], failures: Sequence[Failure], instructions: Sequence[str]) -> str:
    leaders = "\n\n".join(
        f"Score {standing.score:.2f}:\n{as_read(instructions[standing.candidate.instruction]) or '(empty)'}"
        for standing in ranked[:_LEADERS_SHOWN]
    )
    mistakes = "\n\n".join(
        f"Input: {shortened(failure.row.demo.user)}\nRight answer: {shortened(failure.row.demo.assistant)}\n"
        f"The model's answer: {failure.got.strip()[:_LONGEST_OUTPUT] or '(nothing)'}"
        for failure in failures
    )
    return (
        "Instructions for a language model, the best first; the best possible score is 1:\n\n"
        f"{leaders}\n\nWith the first of them the model still makes mistakes:\n\n{mistakes}"
    )
