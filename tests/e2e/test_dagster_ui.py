"""The Dagster UI on `workspace.yaml`: looked at in a real browser after real runs, and a run that is stopped in it."""

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from rs_pipelines import results
from rs_pipelines.defs.runs import add_partitions, optimize_in_process
from rs_pipelines.effort import Effort
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.e2e.dagster_ui import DagsterUi, distinct_lines, running_ui
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.running import eventually
from tests.upstream import Exchange, Upstream

pytestmark = pytest.mark.e2e
PICTURES = Path(os.environ["ROUTE_SWITCH_SCREENSHOTS"]) if "ROUTE_SWITCH_SCREENSHOTS" in os.environ else None
"""Where the screenshots go that the documentation shows; a temporary folder by default."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
_PATIENCE_MS = 240_000


@dataclass(frozen=True, slots=True)
class Stage:
    """A UI over three targets: `tiny` learns, `deaf` never changes its answer, `slow` waits after some answers."""

    ui: DagsterUi
    bench: Workbench
    folder: Path
    n_slow: Callable[[], int]
    release: threading.Event


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder, release, n_slow = tmp_path_factory.mktemp("ui"), threading.Event(), 0

    async def three_models(exchange: Exchange) -> None:
        nonlocal n_slow
        match exchange.body["model"]:
            case "deaf":
                await wire.answers("I do not know.")(exchange)
            case "slow":
                n_slow += 1
                if n_slow > 150:
                    await asyncio.to_thread(release.wait, 240)
                await tiny(exchange)
            case _:
                await tiny(exchange)

    models = ("tiny", "deaf", "slow")
    combinations = [{"id": m, "template_id": "parcels", "model": m, "provider": "scripted"} for m in models]
    with Upstream([three_models]).running() as upstream:
        bench = workbench(folder, upstream, gateway={"combinations": combinations})
        import_parcels(folder, bench)
        # `deaf` last: its candidate is the live prompt, an A/A run, whose failed gate the pages then show.
        for model in ("tiny", "deaf"):
            optimize_in_process(bench, bench.target("parcels", model), Effort())
        add_partitions(bench)
        try:
            with running_ui(bench, folder) as ui:
                yield Stage(ui, bench, folder, lambda: n_slow, release)
        finally:
            release.set()


@pytest.fixture
def page(need: Callable[..., None]) -> Generator[Page]:
    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    need("browser", have=found is not None, why="no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS, timeout=_PATIENCE_MS)
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(_PATIENCE_MS)
        yield page
        browser.close()


@pytest.mark.browser
def test_a_person_sees_lineage_a_partition_its_plots_the_failed_gate_and_what_starts_by_itself(
    stage: Stage, page: Page
) -> None:
    def look(name: str, path: str, *words: str, picture: str | None = None) -> None:
        page.goto(f"{stage.ui.url}{path}")
        for text in words:
            page.get_by_text(text).first.wait_for(timeout=_PATIENCE_MS)
        if picture is not None:
            image = page.locator(f"img[alt='{picture}']").first
            image.wait_for(timeout=_PATIENCE_MS)
            assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
        file = (PICTURES or stage.folder) / f"{name}.png"
        page.screenshot(path=file, animations="disabled")
        assert distinct_lines(file) > 100, f"{file} is blank"

    assets = ("calibration_sample", "study", "comparison", "publication", "imported_rows")
    look(
        "lineage", "/locations/route-switch/asset-groups/optimization/lineage", *assets, "4 / 4 Passed", "1 / 2 Passed"
    )
    partition = "?view=partitions&partition=parcels%40"
    look("study", f"/assets/study{partition}tiny", "parcels@deaf", "best_value", "leaders", picture="study history")
    won = ("rows won, 0 lost", "interval", "rows_lost")
    look("comparison", f"/assets/comparison{partition}tiny", *won, picture="before and after")
    back = ("study_run", "trace_ids", "/assets/study?view=partitions")
    look("publication", f"/assets/publication{partition}tiny", *back)
    reason = "The candidate is the live prompt: there is nothing to publish."
    look("gate", "/assets/comparison?view=checks&checkDetail=beats_live", "Failed", "parcels@deaf", reason)
    look("columns", "/assets/traces?view=overview", "Freshness policy", "Row count", "data-platform", "Parquet")
    schedules = ("ingest_every_hour", "optimize_when_due", "upkeep_every_day")
    automation = ("new_traces", "new_examples", "score_drift", *schedules)
    look("automation", "/automation", *automation)


def test_a_run_that_a_sensor_started_and_a_person_terminated_goes_on_when_it_is_executed_again(stage: Stage) -> None:
    target = stage.bench.target("parcels", "slow")
    stage.ui.switch_on("new_examples")
    eventually(lambda: bool(stage.ui.runs_of(target.key)), timeout_s=240)
    [(run_id, tags)] = stage.ui.runs_of(target.key).items()
    assert tags["route-switch/because"] == "180 new examples of 180 (no study yet), 50 wanted"
    eventually(lambda: stage.n_slow() > 150, timeout_s=240)
    stage.ui.terminate(run_id)
    stage.ui.wait_for(run_id, "CANCELED")
    asked = stage.n_slow()
    stage.release.set()
    again = stage.ui.again(run_id)
    stage.ui.wait_for(again, "SUCCESS")
    study = results.study_of(stage.bench, target)
    assert stage.bench.live(target).origin.study_id == study.study_id
    n_calls = results.spending(stage.bench, study.study_id).calls
    assert stage.n_slow() <= n_calls, "nothing was asked that the study has no account of"
    assert stage.n_slow() - asked < n_calls - 100, "what was answered before is not asked again"
