"""The Dagster UI on `workspace.yaml`, looked at in a real browser after a real run."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from rs_pipelines.defs.instance import dagster_home
from rs_pipelines.defs.runs import optimize_in_process
from rs_pipelines.steps import Effort
from tests.e2e.processes import answers, free_address
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.running import eventually
from tests.upstream import Upstream

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
PICTURES = Path(os.environ["ROUTE_SWITCH_SCREENSHOTS"]) if "ROUTE_SWITCH_SCREENSHOTS" in os.environ else None
"""Where the screenshots go that the documentation shows; a temporary folder by default."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture
def chromium(need: Callable[..., None]) -> str:
    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    need("browser", have=found is not None, why="no Chromium is installed (Debian: apt-get install chromium)")
    assert found is not None
    return found


def test_the_lineage_page_shows_the_assets_of_a_run(tmp_path: Path, chromium: str) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        optimize_in_process(bench, bench.target("parcels"), Effort())
    address = free_address()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home(bench)),
        "RS_CONFIG": str(bench.settings.config_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / "workspace.yaml")]
    command += ["--host", "127.0.0.1", "--port", address.partition(":")[2]]
    with (tmp_path / "dagster.log").open("wb") as log:
        dagster = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: dagster.poll() is not None or answers(f"http://{address}/server_info"), timeout_s=120)
        assert dagster.poll() is None, (tmp_path / "dagster.log").read_text()
        pictures = PICTURES or tmp_path
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1500, "height": 900})
            page.goto(f"http://{address}/locations/route-switch/asset-groups/optimization/lineage")
            for words in ("traces", "calibration_sample", "study", "comparison", "publication", "1 / 1 Passed"):
                page.get_by_text(words, exact=True).first.wait_for(timeout=60_000)
            page.screenshot(path=pictures / "lineage.png", animations="disabled")
            page.goto(f"http://{address}/assets/study?partition=parcels%40tiny&view=partitions")
            page.get_by_text("best_value", exact=True).first.wait_for(timeout=60_000)
            page.get_by_text("[Show Markdown]").first.click()
            page.locator("img[alt='study history']").first.wait_for(timeout=60_000)
            page.screenshot(path=pictures / "study.png", animations="disabled")
            browser.close()
    finally:
        os.killpg(dagster.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            dagster.wait(30)
        if dagster.poll() is None:  # how fast it stops on a busy machine is not what this test is about
            os.killpg(dagster.pid, signal.SIGKILL)
            dagster.wait()
    assert (pictures / "lineage.png").stat().st_size > 20_000
