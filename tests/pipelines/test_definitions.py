"""What the Dagster project promises before anything runs: quick to load, complete, described, and safe by default."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from rs_gateway.pipeline_sections import MiproSettings
from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.jobs import OPTIMIZE, optimize_job
from rs_pipelines.defs.traces import imported_rows, trace_store
from tests.running import write_configuration

ROOT = Path(__file__).parents[2]
ASSETS = {
    *("trace_store", "imported_rows", "traces", "feedback", "live_scores", "daily_figures"),
    *("calibration_sample", "study", "comparison", "publication"),
}
CHECKS = {
    *("enough_rows", "no_example_in_two_splits", "label_balance", "evaluator_sanity"),
    *("beats_live", "cost_within_budget"),
}
LOAD = """
import json, resource, sys
import rs_pipelines.definitions as definitions
repository = definitions.defs.get_repository_def()
usage = resource.getrusage(resource.RUSAGE_SELF)
heavy = [m for m in ("litellm", "torch", "sentence_transformers", "fastapi") if m in sys.modules]
running = [s.name for s in (*repository.sensor_defs, *repository.schedule_defs) if s.default_status.value == "RUNNING"]
job = repository.get_job("optimize")
print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "heavy": heavy, "running": running}))
"""


def loaded(folder: Path) -> dict[str, object]:
    """What a fresh process says that loaded the definitions in `folder`."""
    result = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_definitions_load_quickly_without_a_configuration_and_import_nothing_heavy(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert found["heavy"] == []
    # Seconds of CPU, which other processes on the machine lengthen little; some 3 where there are none.
    assert isinstance(found["cpu_s"], float) and found["cpu_s"] < 5
    assert found["running"] == ["new_targets"]


def test_enabled_in_the_configuration_all_sensors_and_schedules_are_on(tmp_path: Path) -> None:
    write_configuration(tmp_path, {"gateway": {"optimization": {"enabled": True}}})
    found = loaded(tmp_path)
    assert found["running"] == [
        *("new_examples", "new_targets", "new_traces", "score_drift"),
        *("ingest_every_hour", "optimize_when_due", "upkeep_every_day"),
    ]


def test_dg_check_defs_is_clean(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin", "DAGSTER_HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "1"}
    result = subprocess.run(
        [str(Path(sys.executable).with_name("dg")), "check", "defs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All definitions loaded successfully" in result.stdout
    assert "Warning" not in result.stderr, result.stderr


def test_every_asset_has_a_group_a_kind_an_owner_and_a_description() -> None:
    graph = build_defs().resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == ASSETS
    assert {key.name for key in graph.asset_check_keys} == CHECKS
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name in ("lake", "optimization"), key
        assert node.owners and node.description, key
        assert any(tag.startswith("dagster/kind/") for tag in node.tags), key


@pytest.mark.parametrize("name", sorted(ASSETS - {"publication"}))
def test_a_table_shows_its_columns_and_what_each_means_before_it_is_made(name: str) -> None:
    metadata = build_defs().resolve_asset_graph().get(dg.AssetKey(name)).metadata
    columns = metadata["dagster/column_schema"].columns
    assert len({column.name for column in columns}) == len(columns) >= 5
    assert [column.name for column in columns if not column.description] == []


def test_what_an_ingest_makes_says_when_it_is_stale_and_the_stores_are_the_first_of_the_lineage() -> None:
    graph = build_defs().resolve_asset_graph()
    fresh = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy is not None}
    assert fresh == {"traces", "feedback", "live_scores", "daily_figures"}
    assert graph.root_materializable_asset_keys == {dg.AssetKey("traces"), dg.AssetKey("feedback")}
    assert {trace_store.key, imported_rows.key} <= graph.external_asset_keys


def test_only_the_gate_and_a_leaking_sample_stop_a_run() -> None:
    graph = build_defs().resolve_asset_graph()
    blocking = {k.name for k in graph.asset_check_keys if graph.get_check_spec(k).blocking}
    assert blocking == {"beats_live", "no_example_in_two_splits"}
    assert all(graph.get_check_spec(k).partitions_def is not None for k in graph.asset_check_keys)


def test_the_launchpad_shows_what_is_configured_ready_to_be_changed() -> None:
    mipro = MiproSettings(mode="medium", max_calls=900, prompt_model="openai/gpt-4o")
    config = optimize_job(mipro).config["ops"]["study"]["config"]
    assert config == {
        **{"mode": "medium", "num_trials": None, "max_calls": 900, "max_tokens": None, "max_cost_usd": None},
        **{"prompt_model": "openai/gpt-4o", "evaluator": None, "seed": 0},
    }


def test_the_search_takes_turns_in_the_pool_of_the_models() -> None:
    job = build_defs().resolve_job_def(OPTIMIZE)
    pools = {
        node.name: node.definition.pool for node in job.graph.nodes if isinstance(node.definition, dg.OpDefinition)
    }
    assert {name for name, pool in pools.items() if pool == "lm"} == {"study", "comparison"}
