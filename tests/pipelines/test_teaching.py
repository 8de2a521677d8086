"""Distillation: what a stronger model answers becomes labels that everybody can tell from a person's."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.wiring import open_registry
from rs_pipelines import steps
from rs_pipelines.cli import register
from rs_pipelines.examples import gather
from rs_pipelines.sample import Example, Split
from rs_pipelines.teaching import teach
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.pipelines.parcels import LIVE, ORIGIN, parcel, tiny_model
from tests.pipelines.tiny_upstream import TEMPLATE, configuration
from tests.running import running_gateway, write_configuration
from tests.upstream import Exchange, Upstream

N_ASKED = 12


async def teacher_knows(exchange: Exchange) -> None:
    """`large` always gives the parcel's number; cut short for parcel 3. `tiny` does what it can."""
    body = dict(exchange.body)
    messages, name = tuple(body.pop("messages")), body.pop("model")
    said = messages[-1]["content"]
    if name != "large":
        await wire.answers(str(tiny_model(ProviderCall(name, messages, body, 10))))(exchange)
        return
    number = next(word for word in said.split() if word[2:3] == "-")
    await wire.answers(number, finish_reason="length" if "number 3 " in said else "stop")(exchange)


def asked_bench(folder: Path, upstream: Upstream) -> Workbench:
    """A workbench behind a gateway that was asked for twelve parcels, one of them twice."""
    sections = configuration(upstream)
    sections["gateway"]["combinations"].append(
        {"id": "parcels-large", "template_id": "parcels", "model": "large", "provider": "scripted", "enabled": False}
    )
    bench = Workbench.at(write_configuration(folder, sections))
    open_registry(bench.settings).register(TEMPLATE, LIVE, origin=ORIGIN)
    with running_gateway(folder, sections) as gateway, gateway.client() as client:
        traces: list[str] = []
        for number in (*range(N_ASKED), 0):
            body = {"model": "parcels", "messages": [], "variables": dict(parcel(number, Split.TRAIN).variables)}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            traces.append(answer.headers["x-route-switch-trace-id"])
        label = {"trace_id": traces[-1], "kind": "label", "value": "a person's word"}
        assert client.post("/v1/feedback", json=label).status_code in (200, 201)
    return bench


def examples(bench: Workbench) -> tuple[Example, ...]:
    steps.ingest(bench)
    return gather(bench.target("parcels"), TEMPLATE, lake=bench.lake, datasets=bench.datasets).examples


def test_what_nobody_labelled_gets_the_teachers_answer_and_its_name(tmp_path: Path) -> None:
    with Upstream([teacher_knows]).running() as upstream:
        bench = asked_bench(tmp_path, upstream)
        taught = teach(bench, "parcels", teacher="parcels-large", limit=100)
        again = teach(bench, "parcels", teacher="parcels-large", limit=100)
    # Of twelve inputs a person labelled one, and one answer was cut short.
    assert (taught.inputs, taught.labelled, taught.unanswered) == (N_ASKED - 1, N_ASKED - 2, 1)
    assert (taught.calls, taught.remaining) == (N_ASKED - 1, 1)
    assert (again.inputs, again.labelled, again.calls) == (1, 0, 0)
    labels = {example.expected: example.provenance for example in examples(bench)}
    assert labels.pop("a person's word") == "human"
    assert set(labels.values()) == {"teacher:large"}
    assert set(labels) == {parcel(n, Split.TRAIN).expected for n in range(N_ASKED) if n not in (0, 3)}


def test_a_limit_on_calls_is_kept_and_the_rest_comes_next_time(tmp_path: Path) -> None:
    with Upstream([teacher_knows]).running() as upstream:
        bench = asked_bench(tmp_path, upstream)
        first = teach(bench, "parcels", teacher="parcels-large", limit=100, max_calls=4)
        rest = teach(bench, "parcels", teacher="parcels-large", limit=100)
    assert first.budget_spent and first.calls == 4
    assert first.labelled + rest.labelled == N_ASKED - 2


def test_the_command_says_what_came_of_it_and_an_unknown_teacher_is_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    with Upstream([teacher_knows]).running() as upstream:
        bench = asked_bench(tmp_path, upstream)
        options = ["dataset", "teach", "parcels", "--config", str(bench.settings.config_path), "--json", "--teacher"]
        printed = CliRunner().invoke(app, [*options, "parcels-large", "--limit", "5"])
        options.remove("--json")
        told = [
            " ".join(CliRunner().invoke(app, [*options, "parcels-large", "--limit", limit]).stderr.split())
            for limit in ("2", "100", "100")
        ]
        with pytest.raises(ConfigurationError, match=r"'gpt-9' is no combination.*parcels-large, parcels-tiny"):
            CliRunner().invoke(app, [*options, "gpt-9"], catch_exceptions=False)
    assert json.loads(printed.stdout)["inputs"] == 5
    # Twelve were asked: a person labelled one, and the teacher does not answer another to the end.
    assert json.loads(printed.stdout)["remaining"] == 6
    assert "2 of 2 unlabelled inputs labelled" in told[0]
    assert "4 inputs have no label yet: the same command goes on with what is left." in told[0]
    assert "3 of 4 unlabelled inputs labelled as teacher:large, 1 not answered" in told[1]
    assert "1 input has no label yet, because the teacher did not answer to the end" in told[1]
    assert "0 of 1 unlabelled inputs labelled" in told[2]
    assert json.loads(printed.stdout)["source"] == "teacher:large"
