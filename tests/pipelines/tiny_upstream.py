"""The scripted model of `parcels`, behind a real HTTP server, with a gateway's configuration that points at it."""

from pathlib import Path
from typing import Any

from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.wiring import open_registry
from rs_pipelines.dataset_file import read_dataset
from rs_pipelines.datasets import DatasetStore
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.pipelines.parcels import LIVE, ORIGIN, parcels, tiny_model
from tests.running import write_configuration
from tests.upstream import Exchange, Upstream

TEMPLATE = PromptTemplate("parcels", "Parcels", ("message",), {"name": "ExactMatch"})
ASK = {"model": "parcels", "messages": []}


async def tiny(exchange: Exchange) -> None:
    """Answers as `tiny_model` does, plain or streamed."""
    body = dict(exchange.body)
    messages, name = tuple(body.pop("messages")), body.pop("model")
    reply = tiny_model(ProviderCall(name, messages, body, 10))
    await wire.answers(str(reply))(exchange)


def configuration(upstream: Upstream, **sections: Any) -> dict[str, Any]:
    return {
        "model_providers": {"scripted": {"base_url": upstream.base_url}},
        "gateway": {
            "refresh_seconds": 0.05,
            "combinations": [{"id": "parcels-tiny", "template_id": "parcels", "model": "tiny", "provider": "scripted"}],
        },
        "mipro_v2": {"minibatch_size": 20, "num_trials": 6, "minibatch_full_eval_steps": 3},
        **sections,
    }


def workbench(folder: Path, upstream: Upstream, **sections: Any) -> Workbench:
    """A workbench in `folder` with the template registered and nothing else."""
    bench = Workbench.at(write_configuration(folder, configuration(upstream, **sections)))
    open_registry(bench.settings).register(TEMPLATE, LIVE, origin=ORIGIN)
    return bench


def import_parcels(folder: Path, bench: Workbench, **counts: int) -> None:
    """Give the template labelled rows: the parcels, on the sides that they have there."""
    import msgspec

    lines = [
        msgspec.json.encode({"variables": e.variables, "expected": e.expected, "split": e.split.value})
        for e in parcels(**counts).examples
    ]
    path = folder / "parcels.jsonl"
    path.write_bytes(b"\n".join(lines))
    store: DatasetStore = bench.datasets
    store.add("parcels", read_dataset(path, TEMPLATE))
