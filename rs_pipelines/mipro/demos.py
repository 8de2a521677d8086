"""Demo sets: which train rows are shown to the model, how many, and in which order."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from rs_gateway.domain.errors import MissingVariablesError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.nearest import terms_of
from rs_gateway.domain.placeholders import render
from rs_gateway.domain.prompts import Demo, PromptText
from rs_gateway.domain.rendering import words_of_input
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.mipro.budget import StudyPlan
from rs_pipelines.mipro.formats import in_format, without_format
from rs_pipelines.mipro.labels import LabelShape, label_shape
from rs_pipelines.mipro.records import DemoSet, DemoSetKind
from rs_pipelines.sample import Example
from rs_pipelines.scoring import score_rows

_POOL = 200
"""Rows that a set is drawn from; farthest-first among more would take seconds and gain nothing."""
_ODD_SHARE = 0.1
"""Shortest and longest rows left out, each: diversity alone would pick the oddest rows as examples to follow."""
_ODD_FROM = 20
_WIDEST = 12
_WIDE_CHARACTERS = 6_000
"""About 1,500 tokens: a larger set would cost more on every call than it can be worth."""


@dataclass(frozen=True, slots=True)
class DemoRow:
    """A train row that may become a demo."""

    demo: Demo
    stratum: str
    words: frozenset[str]


def demo_user_text(text: PromptText, example: Example, *, template_id: str) -> str | None:
    """The user turn of a demo: what serving compares demos with for this row, if they are chosen by likeness.

    None when the row says nothing, or lacks a variable.
    """
    try:
        user = render(text.user, example.variables, template_id=template_id) if text.user is not None else None
    except MissingVariablesError:
        return None
    return words_of_input(text, user, example.messages)


def demo_rows(text: PromptText, train: Sequence[Example], *, template_id: str, seed: int) -> list[DemoRow]:
    """The rows that may become demos: usable, of ordinary length, no input twice; at most 200, in a seeded order."""
    shape = label_shape([example.expected for example in train])
    rows: dict[str, DemoRow] = {}
    for example in train:
        user = demo_user_text(text, example, template_id=template_id)
        if user and user.strip() and example.expected.strip():
            rows.setdefault(user, _row(user, example, shape))
    ordinary = sorted(rows.values(), key=lambda row: (len(row.demo.user), row.demo.user))
    if len(ordinary) > _ODD_FROM:
        odd = int(len(ordinary) * _ODD_SHARE)
        ordinary = ordinary[odd : len(ordinary) - odd]
    Random(f"{seed}:demo rows").shuffle(ordinary)
    return ordinary[:_POOL]


def _row(user: str, example: Example, shape: LabelShape) -> DemoRow:
    return DemoRow(
        Demo(user, example.expected, example.example_id),
        shape.stratum(example.expected),
        frozenset(terms_of(user)),
    )


def draw_diverse(rows: Sequence[DemoRow], count: int) -> list[DemoRow]:
    """Strata in turn, the most frequent first; within one, the row least like those already drawn (k-centre, lexical).

    Source: farthest-first traversal, Gonzalez (1985).
    """
    strata = _strata(rows)
    turns = sorted(strata, key=lambda stratum: (-len(strata[stratum]), stratum))
    drawn: list[DemoRow] = []
    while turns and len(drawn) < count:
        stratum = turns.pop(0)
        nearest = max(strata[stratum], key=lambda row: (_least_distance(row, drawn), len(row.words)))
        strata[stratum].remove(nearest)
        drawn.append(nearest)
        if strata[stratum]:
            turns.append(stratum)
    return drawn


def draw_random(rows: Sequence[DemoRow], count: int, *, rng: Random) -> list[DemoRow]:
    """Strata in turn in a random order, a random row of each."""
    strata = _strata(rng.sample(rows, len(rows)))
    turns = rng.sample(sorted(strata), len(strata))
    drawn: list[DemoRow] = []
    while turns and len(drawn) < count:
        stratum = turns.pop(0)
        drawn.append(strata[stratum].pop())
        if strata[stratum]:
            turns.append(stratum)
    return drawn


def _strata(rows: Iterable[DemoRow]) -> dict[str, list[DemoRow]]:
    strata: dict[str, list[DemoRow]] = {}
    for row in rows:
        strata.setdefault(row.stratum, []).append(row)
    return strata


def _least_distance(row: DemoRow, drawn: Sequence[DemoRow]) -> float:
    """1 - Jaccard similarity of the words, to the most similar row drawn so far."""
    return min((1 - len(row.words & d.words) / (len(row.words | d.words) or 1) for d in drawn), default=1.0)


async def build_demo_sets(
    text: PromptText,
    train: Sequence[Example],
    *,
    template_id: str,
    plan: StudyPlan,
    model: CachedModel,
    evaluator: Evaluator,
    earlier: Sequence[PromptText] = (),
) -> tuple[DemoSet, ...]:
    """At most `plan.num_candidates` different sets; the first is the live version's own.

    Only train rows are used. The model is tried on `plan.screen_rows` of them, to tell the rows that it gets right from
    the hard ones.

    Args:
        earlier: prompts whose demos are tried again.

    Raises:
        BudgetExhaustedError: during that trial.
    """
    screening = await screen_train_rows(
        text, train, template_id=template_id, plan=plan, model=model, evaluator=evaluator
    )
    return assemble_demo_sets(
        without_format(text),
        screening.rows,
        right=screening.right,
        wrong=screening.wrong,
        plan=plan,
        earlier=earlier,
    )


class Screening(NamedTuple):
    """All rows that may become demos, and those of them that the model was tried on, by result."""

    rows: Sequence[DemoRow]
    wrong: Sequence[DemoRow]
    right: Sequence[DemoRow]


async def screen_train_rows(
    text: PromptText,
    train: Sequence[Example],
    *,
    template_id: str,
    plan: StudyPlan,
    model: CachedModel,
    evaluator: Evaluator,
) -> Screening:
    """Try the model, with the live instruction and diverse demos, on `plan.screen_rows` train rows. Again, it is free.

    Raises:
        BudgetExhaustedError: answers so far are in the cache.
    """
    rows = demo_rows(text, train, template_id=template_id, seed=plan.seed)
    teacher = draw_diverse(rows, plan.max_labeled_demos)
    screened = [row for row in rows if row not in teacher][: plan.screen_rows]
    by_id = {example.example_id: example for example in train}
    base = without_format(text)
    shown = in_format(replace(base, demos=tuple(row.demo for row in teacher) or base.demos), text.output)
    scores = await score_rows(
        replace(shown, instruction=text.instruction),
        [by_id[row.demo.example_id or ""] for row in screened],
        template_id=template_id,
        model=model,
        evaluator=evaluator,
    )
    right = [row for row, score in zip(screened, scores, strict=True) if score.passed is True]
    wrong = [row for row, score in zip(screened, scores, strict=True) if score.passed is False]
    return Screening(rows, wrong, right)


def assemble_demo_sets(
    text: PromptText,
    rows: Sequence[DemoRow],
    *,
    right: Sequence[DemoRow],
    wrong: Sequence[DemoRow],
    plan: StudyPlan,
    earlier: Sequence[PromptText] = (),
) -> tuple[DemoSet, ...]:
    """The sets themselves: live, empty, earlier winners', a diverse one, a wide one, a hard one, a bootstrapped one.

    What places are left go to other orders of the first ones, to smaller sets, and to random labelled, hard and
    bootstrapped ones by turns.

    Args:
        text: the live version's, bare (`without_format`).
        right, wrong: rows that the model was tried on, by result.
    """
    size, bootstrapped = plan.max_labeled_demos, plan.max_bootstrapped_demos
    sets: dict[str, DemoSet] = {}

    def add(kind: DemoSetKind, demos: Iterable[Demo], *, nearest: int = 0) -> None:
        demo_set = replace(demo_set_of(kind, demos), nearest=nearest)
        key = f"{_content_key(demo_set.demos)}:{nearest}"
        if len(sets) < plan.num_candidates and (demo_set.demos or kind in ("live", "empty")):
            sets.setdefault(key, demo_set)

    add("live", text.demos, nearest=text.nearest)
    add("empty", ())
    for winner in earlier:
        add("earlier", winner.demos, nearest=winner.nearest)
    if plan.nearest_pool and len(rows) > size:
        add("nearest", _demos(draw_diverse(rows, plan.nearest_pool)), nearest=size)
    diverse = draw_diverse(rows, size)
    add("labeled", _demos(diverse))
    if plan.wide_demos > size and size:
        wide = draw_diverse(rows, max(plan.wide_demos, min(len(_strata(rows)), _WIDEST)))
        if len(wide) > size and sum(len(row.demo.user) + len(row.demo.assistant) for row in wide) <= _WIDE_CHARACTERS:
            add("labeled", _demos(wide))
    # Hard rows come last: small models lean on what they read last.
    hard = draw_diverse(wrong, (size + 1) // 2)
    add("hard", _demos([*_others(diverse, hard)[: size - len(hard)], *hard]) if hard else ())
    easy = draw_diverse(right, bootstrapped)
    add("bootstrapped", _demos([*easy, *_others(diverse, easy)[: max(0, size - len(easy))]]) if easy else ())
    for demos in (() if text.nearest else text.demos, _demos(diverse)):
        add("reordered", reversed(demos))
    # Of a diverse set, the first rows are the most diverse ones: one demo a label, as far as it goes.
    for smaller in ((size + 1) // 2, 1):
        add("labeled", _demos(diverse[:smaller]))
    for turn in range(4 * plan.num_candidates):
        rng = Random(f"{plan.seed}:demo set:{turn}")
        # Full and smaller sets by turns: which size is best depends on the model.
        count = size if turn % 2 == 0 else rng.randint(min(2, size), size)
        if turn % 3 == 1 and wrong:
            hard = draw_random(wrong, (count + 1) // 2, rng=rng)
            others = draw_random(_others(rows, hard), count - len(hard), rng=rng)
            add("hard", _demos([*others, *hard]))
        elif turn % 3 == 2 and right and bootstrapped:
            easy = draw_random(right, rng.randint(1, bootstrapped), rng=rng)
            others = draw_random(_others(rows, easy), max(0, count - len(easy)), rng=rng)
            add("bootstrapped", _demos([*easy, *others]))
        else:
            add("labeled", _demos(draw_random(rows, count, rng=rng)))
    return tuple(sets.values())


def _others(rows: Iterable[DemoRow], taken: Sequence[DemoRow]) -> list[DemoRow]:
    return [row for row in rows if row not in taken]


def _demos(rows: Iterable[DemoRow]) -> list[Demo]:
    return [row.demo for row in rows]


def demo_set_of(kind: DemoSetKind, demos: Iterable[Demo]) -> DemoSet:
    """These demos, in this order, as a set whose id says how it was made and what it holds."""
    members = tuple(demos)
    return DemoSet(f"{kind}-{len(members)}-{_content_key(members)[:8]}", kind, members)


def _content_key(demos: Sequence[Demo]) -> str:
    return hashlib.sha256(json.dumps([[demo.user, demo.assistant] for demo in demos]).encode()).hexdigest()
