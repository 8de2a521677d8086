"""Where steps are carried out, as the configuration says."""

from pathlib import Path

import dagster as dg
import pytest

from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.settings import load_settings
from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.configuration import configured
from rs_pipelines.defs.executors import executor_of
from tests.running import write_configuration


def test_without_a_configuration_steps_run_in_the_process_of_their_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured() is None
    assert build_defs(settings=configured()).executor is dg.in_process_executor


def test_the_configuration_chooses_and_the_environment_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_configuration(tmp_path, {"pipelines": {"executor": "multiprocess"}})
    monkeypatch.setenv("RS_CONFIG", str(path))
    assert build_defs(settings=configured()).executor is dg.multiprocess_executor
    monkeypatch.setenv("RS_PIPELINES__EXECUTOR", "celery")
    monkeypatch.setenv("RS_PIPELINES__BROKER", "redis://127.0.0.1:1/0")
    assert executor_of(load_settings().pipelines).name == "celery"


def test_celery_without_a_broker_is_refused(tmp_path: Path) -> None:
    path = write_configuration(tmp_path, {"pipelines": {"executor": "celery"}})
    with pytest.raises(ConfigurationError, match="needs a broker"):
        load_settings(path)


def test_a_configuration_that_was_named_must_be_usable_and_one_that_lies_about_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_configuration(tmp_path, {"pipelines": {"executer": "celery"}})
    assert configured() is None
    monkeypatch.setenv("RS_CONFIG", str(path))
    with pytest.raises(ConfigurationError, match="executer"):
        configured()
