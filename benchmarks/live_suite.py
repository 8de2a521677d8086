"""The live part of the optimiser's benchmark: whole optimisations, ours and DSPy's in turn on the same server."""

import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

from benchmarks.call_proxy import CallProxy, call_proxy
from benchmarks.installs import CACHE, install_dspy
from benchmarks.live_runs import LiveRun, Pair, add_run, load_pairs, load_runs
from benchmarks.processes import BenchmarkError
from benchmarks.table_maker import EVALUATORS, default_prompt
from benchmarks.task_rows import TaskRows, load_rows
from rs_gateway.adapters.openai_http import OpenAIHttp
from rs_gateway.domain.placeholders import escape_text
from rs_gateway.domain.prompts import Demo, Origin, PromptText, PromptVersion
from rs_pipelines.answers import AnswerCache
from rs_pipelines.cached_model import CachedModel, CallLimits, ModelIdentity
from rs_pipelines.mipro.budget import PlanNumbers, estimate_calls, plan_for
from rs_pipelines.mipro.demos import demo_user_text
from rs_pipelines.mipro.request import StudyModels, StudyRequest
from rs_pipelines.mipro.search import run_study
from rs_pipelines.sample import Example, Split, Target, sample_of
from rs_pipelines.scoring import score_rows
from rs_pipelines.studies import StudyFiles

_CLIENTS = 4
_NUM_CANDIDATES = 6
_NUM_TRIALS = 10
_MINIBATCH = 20
_RETRY_SHARE = 1.1
"""What a study keeps back of its budget for the comparison, as `study_allowance` does."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One optimiser's result and what it took."""

    text: PromptText
    calls: int
    prompt_calls: int
    tokens: int
    seconds: float


def run_live(pairs: Path, *, results: Path | None, seeds: Iterable[int]) -> list[LiveRun]:
    """All runs of the pairs in a file, those that an earlier call has finished included."""
    return asyncio.run(_run_all(load_pairs(pairs), results or CACHE / "optimizer" / "live.jsonl", tuple(seeds)))


async def _run_all(pairs: Sequence[Pair], results: Path, seeds: Sequence[int]) -> list[LiveRun]:
    done = load_runs(results)
    keys = {(run.task, run.model, run.seed) for run in done}
    async with call_proxy() as proxy:
        # Seed by seed, so that an early stop leaves whole rounds.
        for seed in seeds:
            for pair in pairs:
                if (pair.rows.stem, pair.model, seed) not in keys:
                    run = await _run(pair, seed, proxy)
                    add_run(run, results)
                    done.append(run)
                    print(run, file=sys.stderr, flush=True)
    return done


async def _run(pair: Pair, seed: int, proxy: CallProxy) -> LiveRun:
    rows = _draw(load_rows(pair.rows), pair, seed=seed)
    default = default_prompt(pair.instruction, rows, seed=seed)
    dspy = await _dspy(pair, rows, default, seed=seed, proxy=proxy)
    ours = await _ours(pair, rows, default, seed=seed, proxy=proxy, max_calls=dspy.calls)
    base, own, other = [await _test(pair, rows, text) for text in (default, ours.text, dspy.text)]
    differences = [a - b for a, b in zip(own, other, strict=True)]
    return LiveRun(
        task=rows.task,
        model=pair.model,
        seed=seed,
        default=fmean(base),
        ours=fmean(own),
        dspy=fmean(other),
        difference_se=stdev(differences) / math.sqrt(len(differences)),
        calls_ours=ours.calls,
        calls_dspy=dspy.calls,
        prompt_calls_ours=ours.prompt_calls,
        prompt_calls_dspy=dspy.prompt_calls,
        tokens_ours=ours.tokens,
        tokens_dspy=dspy.tokens,
        seconds_ours=ours.seconds,
        seconds_dspy=dspy.seconds,
    )


def _draw(rows: TaskRows, pair: Pair, *, seed: int) -> TaskRows:
    """The rows of one run: both optimisers get the same."""
    wanted = {Split.TRAIN: pair.n_train, Split.VAL: pair.n_val, Split.TEST: pair.n_test}
    drawn: list[Example] = []
    for split, count in wanted.items():
        own = rows.of(split)
        drawn += Random(f"{seed}:{split.value}").sample(own, min(count, len(own)))
    return replace(rows, examples=tuple(drawn))


async def _dspy(pair: Pair, rows: TaskRows, default: PromptText, *, seed: int, proxy: CallProxy) -> _Outcome:
    task_url = proxy.open("dspy", pair.base_url)
    prompt_url = proxy.open("dspy-prompt", pair.prompt_base_url or pair.base_url)
    request: dict[str, Any] = {
        "instruction": default.instruction,
        "demos": [[demo.user, demo.assistant] for demo in default.demos],
        "train": _texts(default, rows, Split.TRAIN),
        "val": _texts(default, rows, Split.VAL),
        "task_url": task_url,
        "prompt_url": prompt_url,
        "parameters": pair.parameters,
        "evaluator": pair.evaluator,
        "clients": _CLIENTS,
        "seed": seed,
        "num_candidates": _NUM_CANDIDATES,
        "num_trials": _NUM_TRIALS,
        "minibatch_size": _MINIBATCH,
    }
    python = await asyncio.to_thread(install_dspy)
    started = time.monotonic()
    child = await asyncio.create_subprocess_exec(
        str(python),
        str(Path(__file__).with_name("dspy_live.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate(json.dumps(request).encode())
    if child.returncode != 0:
        raise BenchmarkError(f"DSPy failed:\n{errors.decode(errors='replace')[-2000:]}")
    answer = json.loads(output)
    if answer["error"] is not None:
        print(f"DSPy ended with {answer['error']}; its result is the start", file=sys.stderr, flush=True)
    demos = tuple(Demo(user, assistant) for user, assistant in answer["demos"])
    text = PromptText(escape_text(answer["instruction"]), default.user, demos)
    task, prompt = proxy.accounts["dspy"], proxy.accounts["dspy-prompt"]
    return _Outcome(text, task.calls, prompt.calls, task.tokens, time.monotonic() - started)


async def _ours(
    pair: Pair, rows: TaskRows, default: PromptText, *, seed: int, proxy: CallProxy, max_calls: int
) -> _Outcome:
    task_url = proxy.open("ours", pair.base_url)
    prompt_url = proxy.open("ours-prompt", pair.prompt_base_url or pair.base_url)
    sample = sample_of(rows.task, pair.model, rows.examples)
    # More trials than the budget covers: the calls are the limit, not the trials. The study takes proposals out of the
    # same budget; its account at the proxy counts task calls alone.
    numbers = PlanNumbers(num_candidates=_NUM_CANDIDATES, minibatch_size=_MINIBATCH, num_trials=60, seed=seed)
    plan = plan_for("light", len(sample.rows(Split.VAL)), numbers=numbers)
    reserved = math.ceil(estimate_calls(plan, sample).comparison * _RETRY_SHARE)
    plan = replace(plan, max_calls=max_calls + reserved)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cache = AnswerCache(Path(folder) / "answers.sqlite3")
        async with aclosing(_provider(task_url)) as task, aclosing(_provider(prompt_url)) as prompt:
            models = StudyModels(
                _model(task, ModelIdentity("local", "task", dict(pair.parameters)), cache),
                _model(prompt, ModelIdentity("local", "prompt", {"max_tokens": 400, "temperature": 1.0}, seed), cache),
            )
            origin = Origin("registered", "benchmark", "")
            live = PromptVersion(1, default, None, origin)
            request = StudyRequest(Target(rows.task, pair.model), sample, live, plan)
            record = await run_study(
                request, models, evaluator=EVALUATORS[pair.evaluator], files=StudyFiles(Path(folder) / "studies")
            )
        cache.close()
    account, proposer = proxy.accounts["ours"], proxy.accounts["ours-prompt"]
    text = record.best_text if record.best_text is not None else default
    return _Outcome(text, account.calls, proposer.calls, account.tokens, time.monotonic() - started)


async def _test(pair: Pair, rows: TaskRows, text: PromptText) -> list[float]:
    """Scores on the test rows, asked past the proxy: both pay nothing for being judged."""
    cache = AnswerCache(CACHE / "optimizer" / "answers.sqlite3")
    async with aclosing(_provider(pair.base_url)) as provider:
        model = _model(provider, ModelIdentity("local", pair.model, dict(pair.parameters)), cache)
        evaluator = EVALUATORS[pair.evaluator]
        scores = await score_rows(text, rows.of(Split.TEST), template_id=rows.task, model=model, evaluator=evaluator)
    cache.close()
    lost = next((score.error for score in scores if score.value is None), None)
    if lost is not None:
        raise BenchmarkError(f"A test row got no answer ({lost}): run it again, finished runs are kept.")
    return [score.value or 0.0 for score in scores]


def _texts(default: PromptText, rows: TaskRows, split: Split) -> list[list[str]]:
    return [
        [demo_user_text(default, example, template_id=rows.task) or "", example.expected] for example in rows.of(split)
    ]


def _provider(base_url: str) -> OpenAIHttp:
    return OpenAIHttp(
        "local", base_url=base_url, api_key=None, connect_timeout_s=10, first_byte_timeout_s=900, idle_timeout_s=900
    )


def _model(provider: OpenAIHttp, identity: ModelIdentity, cache: AnswerCache) -> CachedModel:
    limits = CallLimits(max_concurrency=_CLIENTS, timeout_s=900)
    return CachedModel(provider, identity, cache, rng=Random(0), limits=limits)
