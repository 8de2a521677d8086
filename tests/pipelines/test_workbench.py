"""Who is asked what: rows go to the model that is optimised for, proposals to the prompt model."""

from pathlib import Path
from typing import Any

import pytest

from rs_gateway.domain.errors import ConfigurationError
from rs_pipelines import steps
from rs_pipelines.workbench import Workbench
from tests.pipelines.parcels import parcels
from tests.pipelines.tiny_upstream import configuration, import_parcels, tiny, workbench
from tests.upstream import Upstream


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
