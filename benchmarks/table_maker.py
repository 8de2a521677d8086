"""Make one score table with a real model: python -m benchmarks.table_maker --help.

Answers are kept in the answer cache, so an interrupted run goes on where it was. Prompts, demo sets, rewrites and
scores are made by the product's own code.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.installs import CACHE
from benchmarks.score_tables import SCALE, ScoreTable, save_table
from benchmarks.task_rows import TaskRows, load_rows
from rs_gateway.adapters.openai_http import OpenAIHttp
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptText
from rs_pipelines.answers import AnswerCache
from rs_pipelines.cached_model import CachedModel, CallLimits, ModelIdentity
from rs_pipelines.evaluators.exact_match import ExactMatch
from rs_pipelines.evaluators.json_match import JsonMatch
from rs_pipelines.mipro.budget import PlanNumbers, plan_for
from rs_pipelines.mipro.demos import build_demo_sets, demo_rows, draw_random
from rs_pipelines.mipro.instructions import plain_rewrites
from rs_pipelines.mipro.records import Candidate, DemoSet, Instruction
from rs_pipelines.sample import Split
from rs_pipelines.scoring import score_rows

_DEFAULT_DEMOS = 4
_LARGE_SET = 8
EVALUATORS: dict[str, Evaluator] = {"exact_match": ExactMatch(), "json_match": JsonMatch()}


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The texts behind a table's candidates."""

    instructions: tuple[Instruction, ...]
    demo_sets: tuple[DemoSet, ...]
    user: str | None

    def text_of(self, candidate: Candidate) -> PromptText:
        """The prompt that a candidate stands for."""
        demos = self.demo_sets[candidate.demo_set].demos
        return PromptText(self.instructions[candidate.instruction].text, self.user, demos)


def default_prompt(instruction: str, rows: TaskRows, *, seed: int) -> PromptText:
    """What the search starts from: the plain instruction with four random train rows as demos."""
    bare = PromptText(instruction, rows.user_template)
    pool = demo_rows(bare, rows.of(Split.TRAIN), template_id=rows.task, seed=seed)
    drawn = Random(f"{seed}:default demos").sample(pool, _DEFAULT_DEMOS)
    return PromptText(instruction, rows.user_template, tuple(row.demo for row in drawn))


async def search_space(
    default: PromptText, rows: TaskRows, *, model: CachedModel, evaluator: Evaluator, seed: int, n_instructions: int
) -> SearchSpace:
    """At most `n_instructions` instructions and six demo sets, made without a proposer. Demos are train rows."""
    train = rows.of(Split.TRAIN)
    plan = plan_for("light", len(rows.of(Split.VAL)), numbers=PlanNumbers(num_candidates=5, seed=seed))
    demo_sets = await build_demo_sets(
        default, train, template_id=rows.task, plan=plan, model=model, evaluator=evaluator
    )
    pool = demo_rows(default, train, template_id=rows.task, seed=seed)
    large = tuple(row.demo for row in draw_random(pool, _LARGE_SET, rng=Random(f"{seed}:large set")))
    rewrites = plain_rewrites(default.instruction, pool)
    return SearchSpace(
        (Instruction(default.instruction, "live"), *(Instruction(text, "rewrite", 0) for text in rewrites))[
            :n_instructions
        ],
        (*demo_sets, DemoSet(f"labeled-{_LARGE_SET}", "labeled", large)),
        default.user,
    )


async def make_table(
    space: SearchSpace, rows: TaskRows, *, n_rows: int, model: CachedModel, model_name: str, evaluator: Evaluator
) -> ScoreTable:
    """Score all candidates on the first `n_rows` val and test rows."""
    examples = (*rows.of(Split.VAL), *rows.of(Split.TEST))[:n_rows]
    candidates = [
        Candidate(instruction, demo_set)
        for instruction in range(len(space.instructions))
        for demo_set in range(len(space.demo_sets))
    ]
    scores: list[tuple[int, ...]] = []
    for candidate in candidates:
        started = time.monotonic()
        text = space.text_of(candidate)
        scored = await score_rows(text, examples, template_id=rows.task, model=model, evaluator=evaluator)
        lost = next((row.error for row in scored if row.value is None), None)
        if lost is not None:
            raise SystemExit(f"A row got no answer ({lost}): run it again when the model can be reached.")
        scores.append(tuple(round(SCALE * (row.value or 0.0)) for row in scored))
        mean = sum(scores[-1]) / SCALE / len(examples)
        tokens = sum(row.input_tokens or 0 for row in scored) / len(examples)
        kind = f"{candidate.instruction} x {space.demo_sets[candidate.demo_set].kind}"
        took = time.monotonic() - started
        print(f"{rows.task} {model_name} {kind}: {mean:.3f}, {tokens:.0f} tokens, {took:.0f} s", file=sys.stderr)
    return ScoreTable(
        task=rows.task,
        model=model_name,
        evaluator=evaluator.name,
        instructions=tuple(instruction.source for instruction in space.instructions),
        demo_sets=tuple(f"{demo_set.kind}-{len(demo_set.demos)}" for demo_set in space.demo_sets),
        lengths=tuple(_length(space.text_of(candidate)) for candidate in candidates),
        scores=tuple(scores),
    )


def _length(text: PromptText) -> int:
    return len(text.instruction) + sum(len(demo.user) + len(demo.assistant) for demo in text.demos)


async def _run(options: argparse.Namespace) -> None:
    rows = load_rows(options.rows)
    evaluator = EVALUATORS[options.evaluator]
    provider = OpenAIHttp(
        "local",
        base_url=options.base_url,
        api_key=None,
        connect_timeout_s=10,
        first_byte_timeout_s=600,
        idle_timeout_s=600,
    )
    cache = AnswerCache(CACHE / "optimizer" / "answers.sqlite3")
    identity = ModelIdentity("local", options.model, {"max_tokens": options.max_tokens, "stop": ["\n", *options.stop]})
    limits = CallLimits(max_concurrency=options.clients, timeout_s=600)
    model = CachedModel(provider, identity, cache, rng=Random(0), limits=limits)
    try:
        default = default_prompt(options.instruction, rows, seed=options.seed)
        space = await search_space(
            default, rows, model=model, evaluator=evaluator, seed=options.seed, n_instructions=options.n_instructions
        )
        table = await make_table(
            space, rows, n_rows=options.n_rows, model=model, model_name=options.model, evaluator=evaluator
        )
        save_table(table, options.out)
    finally:
        await provider.aclose()
        cache.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute one table and write it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL: id, split, variables, expected")
    parser.add_argument("--instruction", required=True, help="the plain instruction to start from")
    parser.add_argument("--model", required=True, help="the model's name, as it stands in the table")
    parser.add_argument("--base-url", default="http://127.0.0.1:18081/v1", help="an OpenAI-compatible server of it")
    parser.add_argument("--evaluator", choices=sorted(EVALUATORS), default="exact_match")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--stop", nargs="*", default=[], help="stop sequences beside the end of the line")
    parser.add_argument("--n-instructions", type=int, default=4)
    parser.add_argument("--n-rows", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4, help="no more than the server has slots")
    parser.add_argument("--seed", type=int, default=0, help="of the demo sets")
    parser.add_argument("--out", type=Path, required=True)
    asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
