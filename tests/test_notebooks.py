"""Every notebook is committed without what it showed, and runs on two recorded weeks."""

import asyncio
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from rs_pipelines.workbench import Workbench
from tests.pipelines.recorded_weeks import make_data_directory

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> Any:
    return nbformat.read(FOLDER / name, as_version=4)


def outputs(notebook: Any) -> Generator[Mapping[str, Any]]:
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return make_data_directory(tmp_path_factory.mktemp("weeks"))


def files_of(data: Path) -> dict[Path, int]:
    """Every file and folder, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in data.rglob("*")}


@pytest.fixture(scope="module")
def before(weeks: Workbench) -> dict[Path, int]:
    """The data directory before anybody looked."""
    return files_of(weeks.data)


@pytest.fixture(scope="module")
def executed(weeks: Workbench, before: dict[Path, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Name -> the notebook after it ran, in a kernel of its own; all at once, for most of the time is start-up."""
    away = tmp_path_factory.mktemp("away")  # as for an analyst, who has the data and no clone
    environment = {
        "RS_DATA_DIR": str(weeks.data),
        "PYTHONPATH": str(FOLDER.parent),
        "IPYTHONDIR": str(away / "ipython"),
    }

    async def run(name: str) -> Any:
        notebook = read(name)
        client = NotebookClient(
            notebook,
            timeout=400,
            startup_timeout=400,
            kernel_name="python3",
            resources={"metadata": {"path": str(away)}},
        )
        await client.async_execute(env={**os.environ, **environment})
        return notebook

    async def run_all() -> list[Any]:
        return await asyncio.gather(*(run(name) for name in NAMES))

    return dict(zip(NAMES, asyncio.run(run_all()), strict=True))


def test_the_four_notebooks_are_there_in_the_order_of_the_loop() -> None:
    assert NAMES == ["01_traces.ipynb", "02_routing.ipynb", "03_study.ipynb", "04_publication.ipynb"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_a_run_leaves_behind_is_committed(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert list(outputs(notebook)) == []
    assert [c for c in notebook.cells if c.cell_type == "code" and c.execution_count is not None] == []
    assert [c.metadata for c in notebook.cells if c.metadata and c.metadata != {"tags": ["parameters"]}] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}, "not the version of whoever ran it"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_asks_a_question_and_its_cells_are_thin(name: str) -> None:
    notebook = read(name)
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}
    for cell in notebook.cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 12
        assert [line for line in lines if len(line) > 120] == []
        assert not any(line.startswith(("def ", "class ", "for ")) for line in lines), "logic belongs into a module"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_clean_and_draws_charts(name: str, executed: dict[str, Any]) -> None:
    shown = list(outputs(executed[name]))
    assert [output for output in shown if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    pictures = [output["data"]["image/svg+xml"] for output in shown if "image/svg+xml" in output.get("data", {})]
    assert len(pictures) >= 4
    assert [output for output in shown if "text/html" in output.get("data", {})], "a table"


def test_looking_changes_nothing_and_leaves_no_file(
    weeks: Workbench, before: dict[Path, int], executed: dict[str, Any]
) -> None:
    assert len(executed) == 4
    assert files_of(weeks.data) == before
