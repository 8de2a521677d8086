"""Instructions to choose from: the live one, plain rewrites of it, and what the prompt model proposes."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from statistics import median

from rs_gateway.domain.chat import Message
from rs_gateway.domain.errors import ProviderError
from rs_gateway.domain.placeholders import escape_text, names_in, parse_text
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.cached_model import CachedModel
from rs_pipelines.mipro.budget import DRAWS_PER_PROPOSAL, StudyPlan, n_proposals, n_rewrites
from rs_pipelines.mipro.demos import DemoRow, draw_random
from rs_pipelines.mipro.labels import LabelShape, json_object, label_shape
from rs_pipelines.mipro.records import Instruction

_TIPS = (
    "Keep it short and plain.",
    "Say exactly what the answer looks like, and what it must not contain.",
    "Describe the task step by step, then ask for the answer only.",
    "Say what to do in the difficult cases that the examples show.",
    "Give the model a fitting role, then the task.",
    "Be precise: the answer is read by a program.",
)
_LONGEST_EXTRA = 1_500
"""Characters that a proposal may have beyond twice the live instruction."""
_LEAK_FROM = 15
"""Inputs and answers shorter than this (characters) occur in instructions by chance."""
_LEAK_RUN = 40
"""A part of a row that is as long as this (characters) does not."""
_COMMON_SHARE = 0.1
"""What stands in so many of the rows is a phrase of the task, not a part of one row."""
_LONGEST_SHOWN = 1_500
_ALIKE = 0.9
_ROWS_SHOWN = 6
_SHORT_WORDS = 8
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_LABEL = re.compile(r"\A(?:(?:proposed|improved|new) )?instruction:\s*", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


async def build_instructions(
    text: PromptText,
    rows: Sequence[DemoRow],
    *,
    plan: StudyPlan,
    model: CachedModel,
    on_proposing: Callable[[int], None],
    earlier: Sequence[PromptText] = (),
    live_score: float | None = None,
) -> tuple[Instruction, ...]:
    """At most `plan.num_instruction_candidates` different instructions; the first is the live one.

    The prompt model sees the live instruction with its score and the user text, a summary of the train rows and a few
    of them, and a tip. What it answers is checked; a refused proposal is asked for once more and then left out, and its
    failures are left out as well.

    Args:
        rows: the train rows that may become demos.
        earlier: prompts whose instructions are tried again, where they keep the live one's placeholders; each in the
            place of a proposal.
        live_score: mean of the live version on validation rows, in [0, 1]; None is not known.

    Raises:
        BudgetExhaustedError: before all proposals were made.
    """
    instructions = [Instruction(text.instruction, "live")]
    for winner in earlier:
        known = {instruction.text for instruction in instructions}
        if winner.instruction not in known and names_in(winner.instruction) == names_in(text.instruction):
            instructions.append(Instruction(winner.instruction, "earlier"))
    n_earlier = len(instructions) - 1
    for rewrite in plain_rewrites(text.instruction, rows)[: n_rewrites(plan)]:
        instructions.append(Instruction(rewrite, "rewrite", 0))
    places = max(0, n_proposals(plan) - n_earlier) if rows else 0
    if places == 0:
        return tuple(instructions)
    on_proposing(places)
    summary = await _summary(text, rows, plan=plan, model=model)
    for place in range(places):
        for draw in range(DRAWS_PER_PROPOSAL):
            salt = 1 + place * DRAWS_PER_PROPOSAL + draw
            question = _question(text, rows, summary=summary, live_score=live_score, salt=salt, plan=plan)
            raw = await ask_for_text(model, question, salt=salt)
            proposal = checked_proposal(raw, text, rows, others=[i.text for i in instructions])
            if proposal is not None:
                instructions.append(Instruction(proposal, "proposed", 0))
                break
    return tuple(instructions)


def plain_rewrites(instruction: str, rows: Sequence[DemoRow]) -> list[str]:
    """Deterministic variants of the live instruction that say what an answer looks like; all keep its placeholders."""
    line = output_line(rows)
    if line is None:
        return []
    line = escape_text(line)
    strict = "Do not explain, do not repeat the question, do not add anything else."
    base = instruction.rstrip()
    if _plain(line) in _plain(base):
        return [] if _plain(strict) in _plain(base) else [f"{base} {strict}"]
    variants = [
        f"{base}\n{line}" if base else line,
        f"{line}\n{base}" if base else f"{line} {strict}",
        f"{base}\n{line} {strict}" if base else f"{strict} {line}",
    ]
    return [variant for variant in dict.fromkeys(variants) if variant != instruction]


def output_line(rows: Sequence[DemoRow]) -> str | None:
    """One sentence that says what the train rows' answers look like; None without rows."""
    if not rows:
        return None
    labels = [row.demo.assistant for row in rows]
    shape = label_shape(labels)
    if shape.closed:
        return f"Answer with exactly one of these labels and nothing else: {', '.join(shape.closed)}."
    if shape.json_keys:
        keys = ", ".join(f'"{key}"' for key in shape.json_keys)
        values = [json_object(label) or {} for label in labels]
        some = "" if all(value.keys() == set(shape.json_keys) for value in values) else "those that apply of "
        return f"Answer with one JSON object only, with {some}these keys: {keys}."
    copied = sum(row.demo.assistant.casefold() in row.demo.user.casefold() for row in rows)
    words = median(len(label.split()) for label in labels)
    if words <= _SHORT_WORDS:
        how = ", copied exactly from the message" if copied >= 0.6 * len(rows) else ""
        return f"Answer with the requested value only{how}.{_special_cases(shape)}"
    return f"Answer in about {words:.0f} words, with the answer only."


def _special_cases(shape: LabelShape) -> str:
    if not shape.frequent:
        return ""
    return f" Where the message gives no such value, the answer may be: {', '.join(sorted(shape.frequent))}."


def checked_proposal(
    raw: str | None, text: PromptText, rows: Sequence[DemoRow], *, others: Sequence[str]
) -> str | None:
    """The proposal as a version's instruction, or None when it cannot be used.

    Refused are: nothing, too much, a dropped or an added placeholder, a train row quoted, in whole or by a run of 40
    characters of its own, and what is already there, in these or nearly these words.
    Braces that are no placeholder of the live instruction are literal.
    """
    if raw is None:
        return None
    cleaned = _bare(raw)
    if not cleaned or len(cleaned) > 2 * len(text.instruction) + _LONGEST_EXTRA:
        return None
    wanted = names_in(text.instruction)
    used = set(_PLACEHOLDER.findall(cleaned))
    if not wanted <= used or (used - wanted) & text.placeholders:
        return None
    if _quotes_a_row(_plain(cleaned), text, rows):
        return None
    proposal = _escape_but(cleaned, wanted)
    if any(_alike(proposal, other) for other in others):
        return None
    return proposal


def _quotes_a_row(plain: str, text: PromptText, rows: Sequence[DemoRow]) -> bool:
    labels = set(map(_plain, label_shape([row.demo.assistant for row in rows]).closed))
    quotable = [part for row in rows for part in {_plain(row.demo.user), _plain(row.demo.assistant)} - labels]
    if any(len(part) >= _LEAK_FROM and part in plain for part in quotable):
        return True
    known = (text.instruction, text.user or "", *labels)
    proposed = set(_runs(plain)).difference(*(_runs(_plain(part)) for part in known))
    if not proposed:
        return False
    shared = Counter(run for part in quotable for run in {run for run in _runs(part) if run in proposed})
    return any(count <= max(1, _COMMON_SHARE * len(rows)) for count in shared.values())


def _runs(plain: str) -> Iterator[str]:
    return (plain[start : start + _LEAK_RUN] for start in range(len(plain) - _LEAK_RUN + 1))


def _bare(raw: str) -> str:
    """Without what models wrap around an answer: a code fence, quotes, a leading `Instruction:`; nothing else."""
    cleaned = raw.strip()
    fenced = _FENCE.match(cleaned)
    cleaned = _LABEL.sub("", fenced[1].strip() if fenced else cleaned).strip()
    if len(cleaned) > 1 and cleaned[0] == cleaned[-1] and cleaned[0] in "\"'`" and cleaned[0] not in cleaned[1:-1]:
        cleaned = cleaned[1:-1].strip()
    return cleaned


def _escape_but(text: str, placeholders: frozenset[str]) -> str:
    """Double every brace except those of the placeholders."""
    parts: list[str] = []
    position = 0
    for found in _PLACEHOLDER.finditer(text):
        if found[1] in placeholders:
            parts += [escape_text(text[position : found.start()]), found[0]]
            position = found.end()
    return "".join(parts) + escape_text(text[position:])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _alike(one: str, other: str) -> bool:
    """Equal but for case and space, or nearly the same words."""
    a, b = Counter(_plain(one).split()), Counter(_plain(other).split())
    union = (a | b).total()
    return union == 0 or (a & b).total() / union > _ALIKE


async def _summary(text: PromptText, rows: Sequence[DemoRow], *, plan: StudyPlan, model: CachedModel) -> str:
    """What the prompt model observes in the data, after the facts that need no model."""
    labels = [row.demo.assistant for row in rows]
    lengths = [median(len(part.split()) for part in parts) for parts in ([row.demo.user for row in rows], labels)]
    facts = (
        f"{len(rows)} rows; an input has about {lengths[0]:.0f} words, an answer about {lengths[1]:.0f}. "
        f"{output_line(rows) or ''}"
    )
    shape = label_shape(labels)
    if shape.closed:
        counts = Counter(labels)
        facts += " Rows by label: " + ", ".join(f"{label} {counts[label]}" for label in shape.closed) + "."
    question = (
        "Here are examples of a task, each an input and the right answer.\n\n"
        f"{_examples(draw_random(rows, 2 * _ROWS_SHOWN, rng=Random(f'{plan.seed}:summary')))}\n\n"
        "In two or three sentences: what is the task, and what do the right answers have in common?"
    )
    observed = await ask_for_text(model, [{"role": "user", "content": question}], salt=0)
    return f"{facts}\n{observed.strip()[:600]}" if observed else facts


def _question(
    text: PromptText,
    rows: Sequence[DemoRow],
    *,
    summary: str,
    live_score: float | None,
    salt: int,
    plan: StudyPlan,
) -> list[Message]:
    examples = draw_random(rows, _ROWS_SHOWN, rng=Random(f"{plan.seed}:proposal:{salt}"))
    user = f"Each input is sent as:\n---\n{as_read(text.user)}\n---\n\n" if text.user is not None else ""
    score = f"Its score is {live_score:.2f}; the best possible one is 1.\n\n" if live_score is not None else ""
    return request_for_instruction(
        f"The current instruction for a language model is:\n---\n{as_read(text.instruction) or '(empty)'}\n---\n\n"
        f"{score}{user}About the data: {summary}\n\nExamples of inputs and right answers:\n\n{_examples(examples)}",
        f"Write a better instruction for this task. {_TIPS[salt % len(_TIPS)]}",
        text,
    )


def request_for_instruction(known: str, wanted: str, text: PromptText) -> list[Message]:
    """The messages that ask the prompt model for one instruction, given what it should know."""
    names = sorted(names_in(text.instruction))
    keep = (
        f" Keep these placeholders exactly as they are: {', '.join(f'{{{name}}}' for name in names)}." if names else ""
    )
    content = f"{known}\n\n{wanted}{keep} Do not quote the examples. Reply with the instruction only."
    return [
        {"role": "system", "content": "You write instructions for language models."},
        {"role": "user", "content": content},
    ]


def as_read(text: str) -> str:
    """A template's text as a person would read it: literal braces single, placeholders as they are."""
    return "".join(lit if name is None else f"{lit}{{{name}}}" for lit, name in parse_text(text))


def shortened(text: str) -> str:
    """At most 1,500 characters of it: a long input must not push the question out of the prompt model's sight."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} [...]"


def _examples(rows: Sequence[DemoRow]) -> str:
    return "\n\n".join(f"Input: {shortened(row.demo.user)}\nAnswer: {shortened(row.demo.assistant)}" for row in rows)


async def ask_for_text(model: CachedModel, messages: Sequence[Message], *, salt: int) -> str | None:
    """What the prompt model says; None when it cannot be asked. Raises BudgetExhaustedError."""
    try:
        return (await model.answer(messages, salt=salt)).text
    except ProviderError:
        # A proposer that fails costs us proposals, not the study.
        return None
