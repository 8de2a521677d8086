"""Who is asked what: rows go to the model that is optimised for, proposals to the prompt model."""

from pathlib import Path
from typing import Any

import pytest

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.wiring import open_registry
from rs_pipelines import steps
from rs_pipelines.sample_draw import LabelShortageError
from rs_pipelines.workbench import Workbench
from tests.gateway.keyed import issue
from tests.pipelines.parcels import LIVE, ORIGIN, parcels
from tests.pipelines.tiny_upstream import TEMPLATE, configuration, import_parcels, tiny, workbench
from tests.running import write_configuration
from tests.upstream import Upstream


def test_who_lacks_labels_is_told_the_gateways_own_address_and_that_it_wants_a_key(tmp_path: Path) -> None:
    sections = {
        "model_providers": {"scripted": {"base_url": "http://127.0.0.1:9/v1"}},
        "gateway": {
            "addr": "0.0.0.0:9123",
            "combinations": [{"id": "c", "template_id": "parcels", "model": "tiny", "provider": "scripted"}],
        },
    }
    bench = Workbench.at(write_configuration(tmp_path, sections))
    open_registry(bench.settings).register(TEMPLATE, LIVE, origin=ORIGIN)
    with pytest.raises(LabelShortageError, match=r"http://127\.0\.0\.1:9123/v1/feedback -H 'Content-Type") as open_door:
        steps.draw(bench, bench.target("parcels"))
    assert "Authorization" not in str(open_door.value)
    assert not (tmp_path / "data/access.db").exists(), "a look makes no store"
    issue(tmp_path, "app")
    with pytest.raises(LabelShortageError, match="/v1/feedback -H 'Authorization: Bearer CLIENT_KEY'"):
        steps.draw(bench, bench.target("parcels"))


def proposing(folder: Path, task: Upstream, proposer: Upstream, prompt_model: str) -> Workbench:
    """A workbench with labels, a sample, and another provider for the prompt model."""
    settings: dict[str, Any] = configuration(task)
    providers = {**settings["model_providers"], "wise": {"base_url": proposer.base_url}}
    mipro = {**settings["mipro_v2"], "prompt_model": prompt_model}
    bench = workbench(folder, task, model_providers=providers, mipro_v2=mipro)
    import_parcels(folder, bench)
    steps.ingest(bench)
    steps.draw(bench, bench.target("parcels"))
    return bench


def test_proposals_go_to_the_prompt_model_alone_and_rows_to_the_task_model_alone(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as task, Upstream([tiny]).running() as proposer:
        bench = proposing(tmp_path, task, proposer, "wise/org/owl")
        study = steps.search(bench, bench.target("parcels"))
        steps.compare(bench, bench.target("parcels"))
    assert "proposed" in {instruction.source for instruction in study.instructions}
    rows = {example.variables["message"] for example in parcels().examples}
    assert {body["model"] for body in proposer.requests} == {"org/owl"}
    assert not rows & {body["messages"][-1]["content"] for body in proposer.requests}
    assert {body["model"] for body in task.requests} == {"tiny"}
    assert {body["messages"][-1]["content"] for body in task.requests} <= rows


@pytest.mark.parametrize("prompt_model", ["owl", "nobody/owl", "wise/", "/owl", ""])
def test_a_prompt_model_that_names_no_provider_and_model_is_refused_before_any_call(
    tmp_path: Path, prompt_model: str
) -> None:
    with Upstream([tiny]).running() as task, Upstream([tiny]).running() as proposer:
        bench = proposing(tmp_path, task, proposer, prompt_model)
        with pytest.raises(ConfigurationError, match=r"mipro_v2\.prompt_model .* is not provider/model") as refused:
            steps.search(bench, bench.target("parcels"))
    assert "scripted, wise" in str(refused.value)
    assert task.requests == proposer.requests == []
