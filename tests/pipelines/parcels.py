"""A small task with a scripted model whose quality depends on the prompt: find the parcel number in a message."""

import hashlib
import re
from pathlib import Path
from random import Random

from rs_gateway.adapters.scripted_chat import Reply, ScriptedChat, message_text
from rs_gateway.domain.chat import JsonObject, ProviderCall
from rs_gateway.domain.prompts import Demo, Origin, PromptText, PromptVersion
from rs_pipelines.answers import AnswerCache
from rs_pipelines.cached_model import CachedModel, CallCost, CallLimits, ModelIdentity, unknown_cost
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.evaluators.exact_match import ExactMatch
from rs_pipelines.mipro.budget import PlanNumbers, SearchPolicy, StudyPlan, plan_for
from rs_pipelines.mipro.request import StudyModels, StudyRequest
from rs_pipelines.sample import CalibrationSample, Example, Split, Target, sample_of

TARGET = Target("parcels", "tiny")
LIVE = PromptText("Find the parcel number.", "{message}")
ORIGIN = Origin("registered", "tests", "2026-01-01T00:00:00+00:00")
EVALUATOR = ExactMatch()
OPENED: list[AnswerCache] = []
_NUMBER = re.compile(r"[A-Z]{2}-\d{4}")
_WORDS = (
    "blue",
    "red",
    "large",
    "small",
    "late",
    "lost",
    "heavy",
    "wet",
    "torn",
    "gift",
    "book",
    "lamp",
    "chair",
    "phone",
)


def parcel(number: int, split: Split) -> Example:
    rng = Random(f"parcel {number}")
    code = f"{rng.choice('ABCD')}{rng.choice('XYZ')}-{rng.randrange(1000, 9999)}"
    words = " ".join(rng.sample(_WORDS, 4))
    message = f"Hello, my {words} parcel {code} number {number} has not come yet"
    return Example(f"e{number:04}", {"message": message}, (), code, "human", split)


def parcels(*, train: int = 40, val: int = 60, test: int = 80) -> CalibrationSample:
    splits = [Split.TRAIN] * train + [Split.VAL] * val + [Split.TEST] * test
    return sample_of("parcels", "tiny", tuple(parcel(n, split) for n, split in enumerate(splits)))


def version(text: PromptText = LIVE, number: int = 1) -> PromptVersion:
    return PromptVersion(number, text, None, ORIGIN)


def chance(message: str, salt: str = "") -> float:
    """How difficult a message is: uniform in [0, 1), the same at every call."""
    return int.from_bytes(hashlib.sha256((salt + message).encode()).digest()[:4]) / 2**32


def tiny_model(call: ProviderCall) -> Reply:
    """More right the more demos it sees, and when it is told what to answer; proposes instructions when asked to."""
    texts = [message_text(message) for message in call.messages]
    if "instruction" in texts[-1]:
        return f"Read the message and give the parcel number, please (idea {call.parameters['seed']})."
    if "what is the task" in texts[-1]:
        return "Parcel numbers are looked for."
    demos = sum(message["role"] == "assistant" for message in call.messages)
    quality = 0.15 + 0.12 * min(demos, 4) + 0.2 * ("only" in texts[0]) + 0.02 * (chance(texts[1]) - 0.5)
    found = _NUMBER.search(texts[-1])
    right = found is not None and chance(texts[-1]) < quality
    return found[0] if found is not None and right else "I think that it has a number."


def model(
    chat: ScriptedChat,
    cache: AnswerCache,
    *,
    concurrency: int = 8,
    budget: CallBudget | None = None,
    parameters: JsonObject | None = None,
    cost: CallCost = unknown_cost,
) -> CachedModel:
    limits = CallLimits(max_concurrency=concurrency, base_delay_s=0.001, max_delay_s=0.002)
    identity = ModelIdentity("scripted", "tiny", parameters or {})
    return CachedModel(chat, identity, cache, rng=Random(1), limits=limits, budget=budget, cost=cost)


def judged_model(
    chat: ScriptedChat, cache: AnswerCache, *, judge: ScriptedChat | None = None, budget: CallBudget | None = None
) -> CachedModel:
    """The model, which finds others by their names; those are answered by `judge`, or by the same script."""
    limits = CallLimits(base_delay_s=0.001, max_delay_s=0.002)
    peers: dict[str, CachedModel] = {}

    def peer(name: str, parameters: JsonObject) -> CachedModel:
        if name not in peers:
            provider, _, other = name.partition("/")
            identity = ModelIdentity(provider, other, parameters)
            peers[name] = CachedModel(judge or chat, identity, cache, rng=Random(1), limits=limits)
        return peers[name]

    identity = ModelIdentity("scripted", "tiny")
    return CachedModel(chat, identity, cache, rng=Random(1), limits=limits, budget=budget, peers=peer)


def models(chat: ScriptedChat, cache: AnswerCache, *, concurrency: int = 8) -> StudyModels:
    task = model(chat, cache, concurrency=concurrency)
    return StudyModels(task, task)


def small_plan(
    n_val: int = 60,
    *,
    max_calls: int | None = None,
    seed: int = 0,
    num_trials: int = 7,
    search: SearchPolicy = "racing",
) -> StudyPlan:
    numbers = PlanNumbers(
        minibatch_size=20,
        num_trials=num_trials,
        minibatch_full_eval_steps=3,
        seed=seed,
        max_calls=max_calls,
        search=search,
    )
    return plan_for("light", n_val, numbers=numbers)


def request(plan: StudyPlan | None = None, *, live: PromptText = LIVE) -> StudyRequest:
    return StudyRequest(TARGET, parcels(), version(live), plan or small_plan())


def cache_at(folder: Path) -> AnswerCache:
    """The cache of a folder; a fixture closes it after the test."""
    OPENED.append(AnswerCache(folder / "answers.db"))
    return OPENED[-1]


def demo(number: int) -> Demo:
    example = parcel(number, Split.TRAIN)
    return Demo(example.variables["message"], example.expected, example.example_id)
