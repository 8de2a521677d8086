from pathlib import Path

import pytest

from rs_gateway.domain.errors import ConfigurationError
from rs_pipelines.analysis.data_directory import NoTracesError, need_traces, open_data
from rs_pipelines.lake import Lake
from tests.pipelines.stored_rows import FakeTraceReader


def with_a_trace(data: Path) -> Path:
    reader = FakeTraceReader()
    reader.add_trace()
    Lake(data / "lake").ingest(reader)
    return data


def test_a_data_directory_needs_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bench = open_data(with_a_trace(tmp_path / "copied"))
    assert need_traces(bench).traces(["seq"]).collect().height == 1
    assert bench.studies.targets() == []


def test_the_environment_names_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RS_DATA_DIR", "elsewhere")
    assert open_data().data == tmp_path / "elsewhere"


def test_a_notebooks_folder_finds_the_configuration_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "route-switch.yaml").write_text("data_dir: records\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert open_data().data == tmp_path / "records"


def test_the_named_configuration_says_where_its_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "route-switch.yaml").write_text("data_dir: records\n")
    monkeypatch.setenv("RS_CONFIG", str(tmp_path / "route-switch.yaml"))
    assert open_data().data == tmp_path / "records"
    monkeypatch.setenv("RS_DATA_DIR", "others")
    assert open_data().data == tmp_path / "others", "as for the gateway, relative to the configuration"


def test_without_data_and_configuration_both_remedies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"RS_CONFIG.*RS_DATA_DIR"):
        open_data()


def test_a_configuration_that_lacks_a_secret_is_no_obstacle_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "route-switch.yaml").write_text("model_providers: {openai: {api_key: '${SECRET_OF_OTHERS}'}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"SECRET_OF_OTHERS.*set RS_DATA_DIR"):
        open_data()
    monkeypatch.setenv("RS_DATA_DIR", "data")
    assert open_data().data == tmp_path / "data"


def test_an_empty_lake_says_how_traces_come_into_it(tmp_path: Path) -> None:
    with pytest.raises(NoTracesError, match="route-switch ingest"):
        need_traces(open_data(tmp_path))
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"
