"""A template that is scored by a judge: search and comparison as the configuration wires them, behind a real server."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.wiring import open_registry
from rs_pipelines import planning, results, steps
from rs_pipelines.effort import Effort
from rs_pipelines.evaluators.llm_judge import LLMJudge
from rs_pipelines.foresight import needed_for
from rs_pipelines.mipro.budget import estimate_calls
from rs_pipelines.sample import Split
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.pipelines.parcels import LIVE, ORIGIN, cache_at, judged_model, parcels, tiny_model
from tests.pipelines.tiny_upstream import configuration, import_parcels
from tests.running import write_configuration
from tests.upstream import Exchange, Upstream

JUDGE = {"name": "LLMJudge", "model": "scripted/judge", "rubric": "Is it the parcel's number?"}


async def answer_or_judge(exchange: Exchange) -> None:
    body = dict(exchange.body)
    messages, name = tuple(body.pop("messages")), body.pop("model")
    if name == "judge":
        reply = _grade(messages[-1]["content"])
    else:
        reply = str(tiny_model(ProviderCall(name, messages, body, 10)))
    await wire.answers(reply)(exchange)


def _grade(text: str) -> str:
    _, reference, answer = (part.partition("\n")[2].partition("\n")[0] for part in text.split("<<<")[1:])
    return f'It is compared. {{"score": {5 if answer == reference else 1}}}'


def judged_workbench(folder: Path, upstream: Upstream, **more: Any) -> Workbench:
    sections = configuration(upstream, **more)
    sections["model_providers"]["scripted"]["options"] = {"top_p": 0.5}
    bench = Workbench.at(write_configuration(folder, sections))
    template = PromptTemplate("parcels", "Parcels", ("message",), JUDGE)
    open_registry(bench.settings).register(template, LIVE, origin=ORIGIN)
    import_parcels(folder, bench)
    return bench


def test_every_call_of_the_judge_is_estimated_paid_from_the_studys_budget_and_made_once(tmp_path: Path) -> None:
    with Upstream([answer_or_judge]).running() as upstream:
        bench = judged_workbench(tmp_path, upstream)
        target = bench.target("parcels")
        sample = steps.draw(bench, target)
        effort = Effort(num_trials=3)
        plan = planning.plan(bench, sample, effort)
        record = steps.search(bench, target, effort)
        comparison = steps.compare(bench, target)
        spent = results.spending(bench, record.study_id).calls
        asked = [request["model"] for request in upstream.requests]
        steps.compare(bench, target)
    assert plan.questions_per_answer == 1
    assert spent == len(asked) <= estimate_calls(plan, sample).total
    assert 0.3 * spent < asked.count("judge") < 0.6 * spent
    assert len(upstream.requests) == spent
    assert comparison.verdict.n == len(comparison.rows)
    for row in comparison.rows:
        assert row.live_value == float(row.live_output == row.expected)


def test_a_judge_is_asked_with_its_providers_options_under_its_own(tmp_path: Path) -> None:
    with Upstream([answer_or_judge]).running() as upstream:
        bench = judged_workbench(tmp_path, upstream)

    async def parameters() -> tuple[dict[str, object], bool]:
        async with bench.models(bench.target("parcels")) as models:
            peer = models.task.peer("scripted/judge/with/slashes", {"temperature": 0})
            with pytest.raises(ConfigurationError, match="providers are: scripted"):
                models.task.peer("other/judge", {})
            return peer.identity.parameters, peer.identity.model == "judge/with/slashes"

    assert anyio.run(parameters) == ({"top_p": 0.5, "temperature": 0}, True)


def test_a_judge_that_nobody_has_a_price_for_is_refused_under_a_budget_of_dollars(tmp_path: Path) -> None:
    with Upstream([answer_or_judge]).running() as upstream:
        price = {"input_usd_per_million_tokens": 1.0, "output_usd_per_million_tokens": 2.0}
        provider = {"base_url": upstream.base_url, "prices": {"tiny": price}}
        combination = {"id": "p", "template_id": "parcels", "model": "tiny", "provider": "scripted"}
        bench = judged_workbench(
            tmp_path,
            upstream,
            model_providers={"scripted": provider},
            gateway={"combinations": [{**combination, "parameters": {"max_tokens": 50}}]},
            mipro_v2={"max_cost_usd": 1.0},
        )
        target = bench.target("parcels")
        steps.draw(bench, target)
        with pytest.raises(ConfigurationError, match="nobody knows what scripted/judge costs"):
            steps.search(bench, target)
    assert upstream.requests == []


def test_all_questions_of_a_judge_that_compares_are_foreseen(tmp_path: Path) -> None:
    rows = parcels().rows(Split.TEST)
    judge = LLMJudge(model="scripted/judge", mode="pairwise")
    model = judged_model(ScriptedChat(["x"]), cache_at(tmp_path))
    needed = needed_for(LIVE, rows, template_id="parcels", model=model, evaluator=judge)
    assert needed.calls == 3 * len(rows)
