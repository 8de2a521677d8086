"""The guide to Dagster names what the project defines, and shows a run's configuration that its job takes."""

from pathlib import Path

import pytest
import yaml

from rs_gateway.pipeline_sections import MiproSettings
from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.failures import DISK, REMEDIES
from rs_pipelines.defs.jobs import optimize_job
from rs_pipelines.defs.optimization import StudyConfig
from tests.documents.markdown_blocks import blocks_of

GUIDE = (Path(__file__).parents[2] / "docs/guides/dagster.md").read_text("utf-8")


KINDS = ("assets", "checks", "jobs", "sensors", "schedules", "codes of failures")


@pytest.fixture(scope="module")
def names() -> dict[str, set[str]]:
    """Kind -> what there is of it in the UI."""
    repository = build_defs().get_repository_def()
    graph = build_defs().resolve_asset_graph()
    return {
        "assets": {key.to_user_string() for key in graph.get_all_asset_keys()},
        "checks": {key.name for key in graph.asset_check_keys},
        "jobs": {"optimize", "ingest", "upkeep"} & {job.name for job in repository.get_all_jobs()},
        "sensors": {sensor.name for sensor in repository.sensor_defs},
        "schedules": {schedule.name for schedule in repository.schedule_defs},
        "codes of failures": {*REMEDIES, DISK},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_everything_of_a_kind_is_named(kind: str, names: dict[str, set[str]]) -> None:
    assert len(names[kind]) >= 3
    assert {name for name in names[kind] if f"`{name}`" not in GUIDE} == set()


def test_the_shown_configuration_of_a_run_has_every_key_and_is_taken() -> None:
    [shown] = [yaml.safe_load(b.text) for b in blocks_of(GUIDE) if b.language == "yaml" and b.text.startswith("ops:")]
    config = shown["ops"]["study"]["config"]
    assert config.keys() == optimize_job(MiproSettings()).config["ops"]["study"]["config"].keys()
    assert StudyConfig(**config).max_calls == config["max_calls"]
