"""`route-switch package`, as a person uses it, beside a gateway that goes on writing."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rs_gateway.domain.prompts import Demo, Origin, PromptText
from rs_pipelines.sample import Split
from tests import upstream as wire
from tests.e2e.processes import free_address, route_switch, serving
from tests.e2e.test_gateway_process import Load
from tests.gateway.test_chat import HELP, configuration
from tests.pipelines.packaged import bench_in, full_bench, original_package
from tests.pipelines.parcels import parcels
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.running import eventually, register, write_configuration
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e
PROVEN_ELSEWHERE = Origin("study", "gate", "2026-05-01T00:00:00+00:00", study_id="s1", comparison_id="c0ffee")


@pytest.fixture
def upstream() -> Generator[Upstream]:
    with Upstream([wire.answers("Gladly.")]).running() as upstream:
        yield upstream


def gateway_in(folder: Path, upstream: Upstream, *, registered: bool) -> str:
    folder.mkdir()
    if registered:
        register(folder)
    settings: dict[str, Any] = configuration(upstream)
    settings["gateway"]["addr"] = free_address()
    write_configuration(folder, settings)
    return f"http://{settings['gateway']['addr']}"


def ok(*arguments: str, cwd: Path) -> Any:
    done = route_switch("package", *arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_template_moves_to_a_second_gateway_while_the_first_one_is_busy(tmp_path: Path, upstream: Upstream) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    url, other_url = gateway_in(here, upstream, registered=True), gateway_in(there, upstream, registered=False)
    (here / "labels.jsonl").write_text('{"variables": {"customer_name": "Jo"}, "expected": "Hello Jo."}\n')
    assert route_switch("dataset", "import", "support", "labels.jsonl", cwd=here).returncode == 0
    with serving(here, url):
        load = Load(url)
        eventually(lambda: len(load.answered) > 20)
        exported = ok("export", "support", "../p.tar.zst", "--include-analytics", "--git", cwd=here)
        seen = len(load.answered)
        again = ok("export", "support", "../q", "--logs-limit", "5", cwd=here)
        assert len(load.stop()) > seen, "the gateway stopped answering"
    assert exported["counts"]["traces"] > 0
    assert (again["counts"]["traces"], exported["counts"]["dataset_rows"]) == (5, 1)
    assert ok("verify", "p.tar.zst", cwd=tmp_path)["ok"] is True
    with serving(there, other_url):
        done = ok("import", "../p.tar.zst", "--restore-analytics", cwd=there)
        assert (done["drafts"], done["live"], done["dataset"]["imported"]) == ([1], [], 1)
        with httpx.Client(base_url=other_url, timeout=10) as client:
            assert client.post("/v1/chat/completions", json=HELP).status_code >= 400  # nothing went live
            stats = client.get("/v1/prompts/support/stats").json()
            assert 0 < stats["windows"]["all"]["overall"]["requests"] <= seen + 10


def test_an_imported_draft_goes_live_only_through_this_gateways_own_gate(tmp_path: Path) -> None:
    """The proof that it came with counts for nothing: it is tried, compared on local test rows, and then published."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    demos = tuple(Demo(e.variables["message"], e.expected) for e in parcels(train=4).examples[:4])
    draft = PromptText("Answer with the parcel number only.", "{message}", demos)
    with Upstream([tiny]).running() as model:
        workbench(here, model).registry.add_version("parcels", draft, model="tiny", origin=PROVEN_ELSEWHERE)
        route_switch("package", "export", "parcels", "../p", cwd=here)
        bench = workbench(there, model)
        import_parcels(there, bench)
        assert ok("import", "../p", "--overwrite", cwd=there)["drafts"] == [2]
        target = bench.target("parcels")
        assert (bench.live(target).number, len(bench.registry.get("parcels").history)) == (1, 1)
        done = route_switch("optimize", "parcels", "--json", cwd=there)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["published"], found["reasons"]
    [study] = bench.studies.studies(target)
    assert draft.instruction in {instruction.text for instruction in study.instructions}, "the draft was tried"
    comparison = bench.studies.load_comparison(target, study.study_id)
    assert comparison is not None
    change = bench.registry.get("parcels").history[-1]
    assert change.comparison_id == comparison.comparison_id == found["comparison_id"]
    assert change.comparison_id != PROVEN_ELSEWHERE.comparison_id
    tested = bench.samples.load(target, comparison.sample_id).rows(Split.TEST)
    assert {row.example_id for row in comparison.rows} == {example.example_id for example in tested}
    assert not {example.variables["message"] for example in tested} & {
        demo.user for demo in bench.live(target).text.demos
    }


def test_data_goes_to_stdout_and_words_to_stderr(tmp_path: Path) -> None:
    full_bench(tmp_path / "here")
    bench_in(tmp_path / "there")
    done = route_switch("package", "export", "parcels", "../p.tar.zst", cwd=tmp_path / "here")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Nothing was redacted" in done.stderr
    done = route_switch("package", "import", "../p.tar.zst", cwd=tmp_path / "there")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing of it is served" in done.stderr
    assert 'route-switch template publish parcels 3 --reason "..."' in done.stderr
    assert "route-switch optimize parcels" in done.stderr


def test_a_bad_package_ends_with_1_and_wrong_usage_with_2(tmp_path: Path) -> None:
    bench_in(tmp_path / "there")
    (tmp_path / "bad.tar.zst").write_bytes(b"bad")
    done = route_switch("package", "verify", "bad.tar.zst", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "invalid_package")
    done = route_switch("package", "import", "../bad.tar.zst", cwd=tmp_path / "there")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: bad.tar.zst is damaged")
    assert route_switch("package", "import", cwd=tmp_path).returncode == 2
    assert route_switch("package", "export", "parcels", "p", "--logs-limit", "x", cwd=tmp_path).returncode == 2


def test_a_package_of_the_original_system_is_verified_and_imported(tmp_path: Path) -> None:
    bench_in(tmp_path / "there")
    original_package(tmp_path / "v1")
    found = ok("verify", "v1", cwd=tmp_path)
    assert (found["version"], found["template_id"]) == ("1.0", "support")
    assert ok("import", "../v1", cwd=tmp_path / "there")["drafts"] == [1]


@pytest.mark.parametrize("command", ["export", "import", "verify"])
def test_every_command_has_help_with_an_example(tmp_path: Path, command: str) -> None:
    done = route_switch("package", command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"route-switch package {command}" in done.stdout
    assert "Example" in done.stdout
