"""An upstream whose token counts cannot be: nothing that adds them up breaks, and nothing believes them."""

from pathlib import Path

import polars as pl

from rs_gateway.domain.chat import ProviderCall
from rs_pipelines import steps
from rs_pipelines.effort import Effort
from rs_pipelines.find_best_model import find_best_model
from tests import upstream as wire
from tests.pipelines.parcels import tiny_model
from tests.pipelines.tiny_upstream import ASK, configuration, import_parcels, workbench
from tests.running import running_gateway
from tests.upstream import Exchange, Upstream


async def boasting(exchange: Exchange) -> None:
    """Answers as `tiny_model` does, and claims to have read and written all that an integer holds."""
    body = dict(exchange.body)
    messages, name = tuple(body.pop("messages")), body.pop("model")
    reply = str(tiny_model(ProviderCall(name, messages, body, 10)))
    counts = {"prompt_tokens": 2**63 - 1, "completion_tokens": 2**63 - 1, "total_tokens": 2**64 - 2}
    await exchange.json(200, wire.completion(reply, usage=counts))


def test_a_whole_round_takes_such_counts_as_not_reported(tmp_path: Path) -> None:
    with Upstream([boasting]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        with running_gateway(tmp_path, configuration(upstream)) as gateway:
            asked = {**ASK, "variables": {"message": "Hello, my parcel AX-1234 has not come yet"}}
            assert [gateway.ask(asked).status_code for _ in range(3)] == [200] * 3
            gateway.traces(at_least=3)
        assert steps.ingest(bench).rows == 3
        (day,) = (tmp_path / "data/lake/traces").rglob("*.parquet")
        stored = pl.read_parquet(day, columns=["input_tokens", "output_tokens", "usage_source"])
        assert stored.dtypes[:2] == [pl.Int64, pl.Int64]
        assert stored["usage_source"].to_list() == ["estimated"] * 3
        assert all(count < 100 for count in stored["input_tokens"])
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        steps.draw(bench, target)
        study = steps.search(bench, target, Effort(num_trials=3))
        assert study.input_tokens < 100 * study.calls
        compared = steps.compare(bench, target)
        assert compared.study_id == study.study_id
        found = find_best_model(bench, "parcels", effort=Effort(num_trials=3))
        assert found.models[0].input_tokens is None
