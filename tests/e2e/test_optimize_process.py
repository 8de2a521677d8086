"""The pipelines as real processes: the whole loop, killed in the middle, started twice, refused."""

import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from openai import OpenAI

from rs_pipelines.sample import Split
from tests.e2e.processes import answers, free_address, route_switch, started
from tests.pipelines.parcels import parcels
from tests.pipelines.tiny_upstream import configuration, import_parcels, tiny, workbench
from tests.running import eventually, write_configuration
from tests.upstream import Exchange, Upstream

pytestmark = pytest.mark.e2e


def optimize(folder: Path, *extra: str) -> dict[str, Any]:
    result = route_switch("optimize", "parcels", "--json", *extra, cwd=folder)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_traffic_becomes_labels_becomes_a_better_prompt_that_is_served_without_a_restart(tmp_path: Path) -> None:
    address = free_address()
    url = f"http://{address}"
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        settings = configuration(upstream)
        settings["gateway"]["addr"] = address
        write_configuration(tmp_path, settings)
        with started("serve", cwd=tmp_path), OpenAI(base_url=f"{url}/v1", api_key="x") as client:
            eventually(lambda: answers(f"{url}/health"), timeout_s=240)

            def ask(message: str) -> Any:
                return client.chat.completions.with_raw_response.create(
                    model="parcels", messages=[], extra_body={"variables": {"message": message}}
                )

            for example in parcels(train=60, val=60, test=80).examples:
                trace_id = ask(example.variables["message"]).headers["x-route-switch-trace-id"]
                label = {"trace_id": trace_id, "kind": "label", "value": example.expected}
                assert httpx.post(f"{url}/v1/feedback", json=label, timeout=60).status_code == 201
            result = optimize(tmp_path, "--show-rows", "1")
            assert result["published"], result
            [won] = result["rows_won"]
            assert won["expected"] in won["variables"]["message"], "a row is shown with its input"
            assert result["optimized_score"] > result["baseline_score"]
            assert result["model_calls"] > 0 and result["paid_input_tokens"] > result["paid_output_tokens"] > 0
            assert result["paid_usd"] is None, "nobody knows what this model costs"
            version = str(result["published_version"])
            eventually(lambda: ask("any").headers["x-route-switch-version"] == version)
    live = bench.live(bench.target("parcels"))
    assert live.origin.study_id == result["study_id"]
    demos = {demo.example_id for demo in live.text.demos}
    sample = bench.samples.latest(bench.target("parcels"))
    assert sample is not None
    traced = {e.example_id: e.trace_id for e in sample.examples}
    assert all(traced[d] for d in demos if d is not None), "every demo leads back to its trace"


def test_killed_in_mid_study_it_goes_on_and_pays_for_no_row_twice(tmp_path: Path) -> None:
    def questions(upstream: Upstream) -> list[str]:
        return [json.dumps(body, sort_keys=True) for body in upstream.requests]

    reference = tmp_path / "reference"
    interrupted = tmp_path / "interrupted"
    for folder in (reference, interrupted):
        folder.mkdir()
    with Upstream([tiny]).running() as upstream:
        import_parcels(reference, workbench(reference, upstream))
        expected = optimize(reference)
        n_uninterrupted = len(upstream.requests)
    with Upstream([tiny]).running() as upstream:
        import_parcels(interrupted, workbench(interrupted, upstream))
        with started("optimize", "parcels", cwd=interrupted) as process:
            eventually(lambda: len(upstream.requests) > n_uninterrupted / 3, timeout_s=240)
            process.kill()
        result = optimize(interrupted)
        asked = questions(upstream)
    assert len(asked) - len(set(asked)) <= 8, "only calls that were in flight may be paid for again"
    assert len(asked) <= n_uninterrupted + 8
    same = ("baseline_score", "optimized_score", "published", "published_version", "interval", "n_test")
    assert {k: result[k] for k in same} == {k: expected[k] for k in same}
    with dg.DagsterInstance.from_config(str(interrupted / "data/dagster")) as instance:
        statuses = {run.status for run in instance.get_runs()}
    assert statuses == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS}, "no killed run runs for ever"


def test_stopped_by_ctrl_c_it_says_so_and_goes_on_later(tmp_path: Path) -> None:
    release = threading.Event()

    async def slow(exchange: Exchange) -> None:
        await asyncio.to_thread(release.wait, 240)
        await tiny(exchange)

    with Upstream([slow]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        with started("optimize", "parcels", cwd=tmp_path) as process:
            eventually(lambda: len(upstream.requests) > 0, timeout_s=240)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes in the foreground
            assert process.wait(240) == 130
        release.set()
        output = (tmp_path / "process.log").read_text()
        assert "Traceback" not in output
        assert "goes on where it was" in output
        with dg.DagsterInstance.from_config(str(tmp_path / "data/dagster")) as instance:
            assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
        assert optimize(tmp_path)["published"]


def test_of_two_optimisations_of_one_template_the_second_is_refused(tmp_path: Path) -> None:
    release = threading.Event()

    async def slow(exchange: Exchange) -> None:
        await asyncio.to_thread(release.wait, 240)
        await tiny(exchange)

    with Upstream([slow]).running() as upstream:
        import_parcels(tmp_path, workbench(tmp_path, upstream))
        with started("optimize", "parcels", cwd=tmp_path) as first:
            eventually(lambda: len(upstream.requests) > 0, timeout_s=240)
            second = route_switch("optimize", "parcels", cwd=tmp_path)
            release.set()
            assert first.wait(240) == 0
    assert second.returncode == 1
    assert f"process {first.pid}" in " ".join(second.stderr.split())


def test_a_second_optimisation_is_refused_while_the_first_compares_and_the_first_ends_in_its_own_verdict(
    tmp_path: Path,
) -> None:
    comparing, release = threading.Event(), threading.Event()
    held_out = {example.variables["message"] for example in parcels().rows(Split.TEST)}

    async def slow_on_held_out_rows(exchange: Exchange) -> None:
        if exchange.body["messages"][-1]["content"] in held_out:
            comparing.set()
            await asyncio.to_thread(release.wait, 240)
        await tiny(exchange)

    with Upstream([slow_on_held_out_rows]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
        with started("optimize", "parcels", cwd=tmp_path) as first:
            eventually(comparing.is_set, timeout_s=240)
            second = route_switch("optimize", "parcels", "--seed", "1", cwd=tmp_path)
            release.set()
            assert first.wait(240) == 0
        assert second.returncode == 1
        assert f"process {first.pid}" in " ".join(second.stderr.split())
        asked = [json.dumps(body, sort_keys=True) for body in upstream.requests]
    assert len(asked) == len(set(asked)), "no row was paid for twice"
    target = bench.target("parcels")
    [study] = bench.studies.studies(target)
    assert bench.live(target).origin.study_id == study.study_id


def test_without_labels_it_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        workbench(tmp_path, upstream)
        result = route_switch("optimize", "parcels", cwd=tmp_path)
    assert result.returncode == 1
    assert "/v1/feedback" in result.stderr
    assert "dataset import parcels" in result.stderr
    assert "Traceback" not in result.stderr
    assert upstream.requests == []


def test_an_unreachable_model_fails_with_its_name_and_keeps_what_was_done(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        import_parcels(tmp_path, bench)
    result = route_switch("optimize", "parcels", cwd=tmp_path)
    assert result.returncode == 1
    assert "scripted cannot be reached" in " ".join(result.stderr.split())
    assert bench.live(bench.target("parcels")).number == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("optimize", "nope"), "No enabled combination"),
        (("optimize", "parcels", "--model", "huge"), "does not run on 'huge'"),
        (("dataset", "import", "nope", "rows.jsonl"), "'nope'"),
        (("template", "show", "nope"), "'nope'"),
    ],
)
def test_a_wrong_name_is_refused_with_what_there_is(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with Upstream([tiny]).running() as upstream:
        workbench(tmp_path, upstream)
        result = route_switch(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_bad_rows_are_listed_by_line_and_nothing_is_imported_unless_told(tmp_path: Path) -> None:
    good = {"variables": {"message": "where is AB-1"}, "expected": "AB-1"}
    lines = [
        json.dumps(good),
        "{",
        json.dumps({"variables": {}, "expected": "x"}),
        json.dumps({**good, "split": "dev"}),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
        refused = route_switch("dataset", "import", "parcels", "rows.jsonl", cwd=tmp_path)
        assert refused.returncode == 1
        assert all(f"line {number}:" in refused.stderr for number in (2, 3, 4))
        assert bench.datasets.rows("parcels") == ()
        taken = route_switch("dataset", "import", "parcels", "rows.jsonl", "--skip-invalid", "--json", cwd=tmp_path)
    assert json.loads(taken.stdout)["imported"] == 1
    assert len(bench.datasets.rows("parcels")) == 1


BOTH_KINDS = (
    {"variables": {"message": "where is AB-1"}, "expected": "AB-1", "split": "train"},
    {"variables": {"message": "where is CD-2"}, "expected": "CD-2"},
    {"variables": {}, "expected": "x"},
    {"variables": {"message": "Where is  EF-3"}, "expected": "EF-3", "split": "val"},
)
"""One good row; rows 1 and 4 were imported on another side before, row 3 lacks a variable."""


@pytest.fixture
def faulty_file(tmp_path: Path) -> Path:
    """A file with faults of its own and conflicts with an earlier one, beside the configuration."""
    earlier = [{**row, "split": "test"} for row in (BOTH_KINDS[0], BOTH_KINDS[3])]
    for name, rows in (("earlier.jsonl", earlier), ("rows.jsonl", BOTH_KINDS)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    with Upstream([tiny]).running() as upstream:
        workbench(tmp_path, upstream)
    assert route_switch("dataset", "import", "parcels", "earlier.jsonl", cwd=tmp_path).returncode == 0
    return tmp_path


REASONS = {1: "was imported as test", 3: "variable `message` is missing", 4: "was imported as test"}


def test_a_refused_import_lists_every_bad_row_of_either_kind(faulty_file: Path) -> None:
    refused = route_switch("dataset", "import", "parcels", "rows.jsonl", "--json", cwd=faulty_file)
    assert refused.returncode == 1
    report = json.loads(refused.stdout)
    assert {problem["line"]: problem["reason"].partition(":")[0] for problem in report["problems"]} == REASONS
    counts = {name: count for name, count in report.items() if name != "problems"}
    assert counts == {"imported": 0, "corrected": 0, "duplicates": 0, "skipped": 3}
    *listed, verdict = refused.stderr.splitlines()
    assert [line.partition(":")[0] for line in listed] == ["line 1", "line 3", "line 4"]
    assert verdict.startswith("3 bad rows, nothing imported.")


def test_an_import_that_skips_bad_rows_lists_them_all_too(faulty_file: Path) -> None:
    skipping = ("dataset", "import", "parcels", "rows.jsonl", "--skip-invalid")
    told = route_switch(*skipping, cwd=faulty_file)
    assert told.returncode == 0
    *listed, verdict = told.stderr.splitlines()
    assert [line.partition(":")[0] for line in listed] == ["line 1", "line 3", "line 4"]
    assert verdict == "Imported 1 row (0 corrected, 0 already known, 3 skipped)."
    report = json.loads(route_switch(*skipping, "--json", cwd=faulty_file).stdout)
    assert (report["imported"], report["duplicates"], report["skipped"]) == (0, 1, 3)
    assert [problem["line"] for problem in report["problems"]] == [1, 3, 4]
