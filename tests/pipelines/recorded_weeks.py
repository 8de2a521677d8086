"""Two weeks of a small company's traffic, with a study and a publication in the middle: what an analyst finds on disk.

Everything is written by the product's own parts; only the models are scripted, and the dates are the past's.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random

from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.prompts import Origin, PromptTemplate, PromptText
from rs_gateway.domain.routing import Decision
from rs_gateway.domain.traces import Attempt, Outcome, Trace, TracePayload, Usage, UsageSource
from rs_pipelines import steps
from rs_pipelines.publishing import Published, publish
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.running import write_configuration
from tests.upstream import Exchange, Upstream

START = datetime(2026, 3, 2, tzinfo=UTC)
PUBLISHED_AT = START + timedelta(days=9, hours=8)
DAYS = 14
REQUESTS = ("refund", "repair", "replacement")
TICKETS = Path(__file__).parents[2] / "data" / "sample" / "tickets.jsonl"
TEMPLATE = PromptTemplate("ticket-request", "What a ticket asks for", ("message",), {"name": "ExactMatch"})
GREETING = PromptTemplate("greeting", "A greeting", ("name",), {"name": "ExactMatch"})
LIVE = PromptText("What does the customer want?", "{message}")
N_LABELS = 240


@dataclass(frozen=True, slots=True)
class Option:
    """A combination as the recorded gateway knew it."""

    combination_id: str
    model: str
    share: float
    usd_per_1000_tokens: float | None
    seconds: float
    quality: float


TICKET_POOL = (
    Option("ticket-mini", "mini", 0.75, 0.0006, 0.5, 0.5),
    Option("ticket-large", "large", 0.25, 0.009, 1.6, 0.92),
)
GREETING_POOL = (
    Option("greeting-mini", "mini", 0.6, 0.0006, 0.3, 0.9),
    Option("greeting-own", "own", 0.4, None, 0.9, 0.8),
)


@cache
def tickets() -> list[tuple[str, str]]:
    """(message, what it asks for)."""
    rows = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]
    return [(row["variables"]["message"], row["expected"].rsplit(" | ", 1)[1]) for row in rows]


def difficulty(message: str) -> float:
    """Uniform in [0, 1), the same at every call."""
    return int.from_bytes(hashlib.sha256(message.encode()).digest()[:4]) / 2**32


def answer(message: str, right: str, *, quality: float) -> str:
    """Right on the easier messages, and one of the other requests on the others."""
    if difficulty(message) < quality:
        return right
    return REQUESTS[(REQUESTS.index(right) + 1 + int(100 * difficulty(message)) % 2) % 3]


def make_data_directory(folder: Path) -> Workbench:
    """Make `folder/data` as two weeks of gateway and pipelines leave it: traces, lake, sample, study and version 2."""
    right = dict(tickets())

    async def mini(exchange: Exchange) -> None:
        texts = [str(message["content"]) for message in exchange.body["messages"]]
        if texts[-1] not in right:  # the search asks for ideas
            await wire.answers(f"Say refund, repair or replacement (idea {len(texts[-1]) % 7}).")(exchange)
            return
        demos = sum(message["role"] == "assistant" for message in exchange.body["messages"])
        quality = 0.45 + 0.03 * min(demos, 8) + 0.1 * ("repair" in texts[0])
        luck = 0.3 * (difficulty(texts[0] + texts[1] + texts[-1]) - 0.5)  # every prompt has its own good rows
        await wire.answers(answer(texts[-1], right[texts[-1]], quality=quality + luck))(exchange)

    with Upstream([mini]).running() as upstream:
        bench = Workbench.at(write_configuration(folder, _configuration(upstream)))
        _register(bench)
        traffic = _Traffic(bench)
        traffic.record(START, PUBLISHED_AT, version=1)
        steps.ingest(bench)
        target = bench.target(TEMPLATE.template_id, "mini")
        steps.draw(bench, target)
        study = steps.search(bench, target)
        comparison = steps.compare(bench, target)
        assert study.best_text is not None
        published = publish(comparison, study.best_text, bench.registry, now=PUBLISHED_AT)
    assert isinstance(published, Published), published
    traffic.record(PUBLISHED_AT, START + timedelta(days=DAYS), version=published.version)
    steps.ingest(bench)
    return bench


def _configuration(upstream: Upstream) -> dict[str, object]:
    pools = ((TEMPLATE, TICKET_POOL), (GREETING, GREETING_POOL))
    combinations = [
        {
            "id": option.combination_id,
            "template_id": template.template_id,
            "model": option.model,
            "provider": "scripted",
        }
        for template, pool in pools
        for option in pool
    ]
    return {
        "model_providers": {"scripted": {"base_url": upstream.base_url}},
        "gateway": {"combinations": combinations},
        "mipro_v2": {"minibatch_size": 20, "num_trials": 16, "minibatch_full_eval_steps": 4},
    }


def _register(bench: Workbench) -> None:
    origin = Origin("registered", "ada", (START - timedelta(days=20)).isoformat())
    bench.registry.register(TEMPLATE, LIVE, origin=origin)
    bench.registry.register(GREETING, PromptText("Greet {name}."), origin=origin)


class _Traffic:
    """What clients asked and said, written as a gateway writes it."""

    def __init__(self, bench: Workbench) -> None:
        self._path = bench.data / "traces.db"
        self._rng = Random(7)
        self._n = 0
        self._labels_left = dict(tickets()[:N_LABELS])

    def record(self, start: datetime, end: datetime, *, version: int) -> None:
        """Requests of both templates between two moments, more at noon and fewer at weekends."""
        store = SqliteTraceStore(self._path)
        feedback: list[Feedback] = []
        try:
            moment = start
            while moment < end:
                busy = 1.0 if moment.weekday() < 5 else 0.35
                for _ in range(round(busy * (2 + 14 * max(0.0, 1 - abs(moment.hour - 13) / 7)))):
                    at = moment.timestamp() + 3_600 * self._rng.random()
                    feedback += self._ticket(store, at, version) if self._rng.random() < 0.7 else self._greet(store, at)
                moment += timedelta(hours=1)
            asyncio.run(_give(store, feedback))
        finally:
            store.close()

    def _ticket(self, store: SqliteTraceStore, at: float, version: int) -> list[Feedback]:
        message, right = next(iter(self._labels_left.items()), None) or self._rng.choice(tickets())
        trace, option = self._trace(at, TEMPLATE, TICKET_POOL, {"message": message}, version)
        learnt = 0.3 if option.model == "mini" and version > 1 else 0.0
        said = answer(message, right, quality=option.quality + learnt)
        store.append(_with_answer(trace, said if trace.outcome is Outcome.COMPLETE else None))
        if trace.outcome is not Outcome.COMPLETE:
            return []
        given = [_said(trace, FeedbackKind.SCORE, float(said == right), "checker")] if self._rng.random() < 0.4 else []
        if self._labels_left.pop(message, None) is not None:
            source = "human:ada" if self._rng.random() < 0.7 else "teacher:scripted/large"
            given.append(_said(trace, FeedbackKind.LABEL, right, source))
        return given

    def _greet(self, store: SqliteTraceStore, at: float) -> list[Feedback]:
        trace, option = self._trace(at, GREETING, GREETING_POOL, {"name": self._rng.choice(["Ada", "Ben", "Cleo"])}, 1)
        store.append(_with_answer(trace, "Hello!" if trace.outcome is Outcome.COMPLETE else None))
        good = trace.outcome is Outcome.COMPLETE and self._rng.random() < 0.15
        return [_said(trace, FeedbackKind.SCORE, float(self._rng.random() < option.quality), "checker")] if good else []

    def _trace(
        self, at: float, template: PromptTemplate, pool: Sequence[Option], variables: dict[str, str], version: int
    ) -> tuple[Trace, Option]:
        self._n += 1
        rng, trace_id = self._rng, f"T{self._n:025d}"
        first = rng.choices(pool, [option.share for option in pool])[0]
        other = next(option for option in pool if option is not first)
        failed = rng.random() < (0.09 if first.model == "large" else 0.03)
        attempts = [
            _attempt(first, version, error_code=rng.choice(["provider_timeout", "rate_limited"]) if failed else None)
        ]
        last = first
        if failed:
            lost = rng.random() < 0.15
            attempts.append(_attempt(other, 1, error_code="provider_unavailable" if lost else None))
            last, outcome = other, Outcome.PROVIDER_ERROR if lost else Outcome.COMPLETE
        else:
            odds = (0.97, 0.012, 0.01, 0.008)
            kinds = (Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.CLIENT_CANCELLED, Outcome.PROVIDER_CUT)
            outcome = rng.choices(kinds, odds)[0]
        latency = last.seconds * rng.lognormvariate(0, 0.45) + (2.0 if failed else 0.0)
        tokens = (rng.randrange(60, 140) + 320 * (version > 1 and last.model == "mini"), rng.randrange(2, 12))
        streamed, answered = rng.random() < 0.4, outcome is not Outcome.PROVIDER_ERROR
        known = answered and last.usd_per_1000_tokens is not None
        trace = Trace(
            trace_id,
            at,
            template.template_id,
            outcome,
            streamed,
            latency,
            Usage(*tokens, UsageSource.PROVIDER) if answered else Usage.unknown(),
            template_id=template.template_id,
            version=version if last.model == "mini" else 1,
            combination_id=last.combination_id,
            provider="scripted",
            model=last.model,
            finish_reason="stop" if outcome is Outcome.COMPLETE else None,
            error_code=None if answered else "provider_unavailable",
            time_to_first_token_s=0.4 * latency if streamed and answered else None,
            cost_usd=sum(tokens) / 1_000 * (last.usd_per_1000_tokens or 0) if known else None,
            decision=Decision(
                first.combination_id,
                (other.combination_id,),
                "weighted_round_robin",
                {option.combination_id: option.share for option in pool},
                f"share {first.share:g}",
            ),
            attempts=tuple(attempts),
            payload=TracePayload((), variables, {}, (), None),
        )
        return trace, last


def _attempt(option: Option, version: int, *, error_code: str | None) -> Attempt:
    status = None if error_code is None else 429 if error_code == "rate_limited" else 503
    return Attempt(option.combination_id, "scripted", option.model, version, error_code, status, option.seconds)


def _with_answer(trace: Trace, content: str | None) -> Trace:
    assert trace.payload is not None
    response = None if content is None else {"role": "assistant", "content": content}
    return replace(trace, payload=replace(trace.payload, response=response))


def _said(trace: Trace, kind: FeedbackKind, value: str | float, source: str) -> Feedback:
    return Feedback(f"{kind.value}-{trace.trace_id}", trace.trace_id, kind, value, source, trace.started_at + 60)


async def _give(store: SqliteTraceStore, feedback: Sequence[Feedback]) -> None:
    await asyncio.gather(*(store.add_feedback(one) for one in feedback))
