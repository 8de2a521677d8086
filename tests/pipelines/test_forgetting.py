"""Forgetting: no byte of a user's traces is left anywhere, everybody else's are, and who quotes them is named."""

import asyncio
import io
import shutil
from collections.abc import Iterator
from contextlib import closing
from contextvars import Context
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.ports import TraceEraser
from rs_gateway.domain.traces import Outcome, Trace, TracePayload, Usage
from rs_gateway.settings import Settings
from rs_gateway.wiring import open_trace_eraser
from rs_pipelines import forgetting, results, steps
from rs_pipelines.cli_forget import found_lines
from rs_pipelines.comparison import Comparison
from rs_pipelines.defs.forgotten_runs import forget_runs, runs_of
from rs_pipelines.defs.runs import optimize_in_process
from rs_pipelines.effort import Effort
from rs_pipelines.forgetting import QuotingVersion, find, forget
from rs_pipelines.lake import Lake
from rs_pipelines.lake_files import LakeBusyError
from rs_pipelines.lake_schema import TRACES
from rs_pipelines.studies import StudyBusyError
from rs_pipelines.workbench import Workbench
from tests.commands import from_json, invoke
from tests.pipelines.parcels import parcels
from tests.pipelines.test_backup import bench_at, writing_at_full_speed
from tests.pipelines.tiny_upstream import import_parcels, tiny, workbench
from tests.trace_files import ids, opened
from tests.upstream import Upstream

N_USERS = 9


def asked(number: int, message: str, answer: str) -> Trace:
    asked_for = {"message": message}
    said = {"role": "assistant", "content": answer}
    payload = TracePayload((), asked_for, {}, ({"role": "user", "content": message},), said)
    return Trace(
        *(f"{number:026d}", 1_740_830_400.0 + number, "parcels", Outcome.COMPLETE, False, 0.1, Usage.unknown()),
        template_id="parcels",
        version=1,
        combination_id="parcels-tiny",
        provider="scripted",
        model="tiny",
        finish_reason="stop",
        end_user=f"user-{number % N_USERS}-secret",
        payload=payload,
    )


def fill(bench: Workbench) -> dict[str, list[str]]:
    """Labelled traffic of several users; user -> what only they said."""
    said: dict[str, list[str]] = {}
    with opened(bench.data / "traces.db") as store:

        async def label_all() -> None:
            for number, example in enumerate(parcels().examples):
                trace = asked(number, example.variables["message"], "I think that it has a number.")
                store.append(trace)
                label = Feedback(f"f{number}", trace.trace_id, FeedbackKind.LABEL, example.expected, "human", 1.0)
                await store.add_feedback(replace(label, created_at=trace.started_at + 1))
                assert trace.end_user is not None
                said.setdefault(trace.end_user, [trace.end_user]).extend((example.expected, trace.trace_id))
                said[trace.end_user].append(f"number {number} has")

        asyncio.run(label_all())
    return said


def written(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file under a folder, as bytes; Parquet as the text that is packed in it."""
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            packed = io.BytesIO()
            pl.read_parquet(content, hive_partitioning=False).write_ndjson(packed)
            content += packed.getvalue()
        yield path.relative_to(root).as_posix(), content


def places(root: Path, texts: list[str]) -> set[str]:
    """Files in which any of the texts stands."""
    return {name for name, content in written(root) if any(text.encode() in content for text in texts)}


def folders(names: set[str]) -> set[str]:
    return {name.split("/")[0] for name in names}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """A folder that has been through the whole loop, its traffic included."""
    folder = tmp_path_factory.mktemp("optimised")
    with Upstream([tiny]).running() as upstream:
        bench = workbench(folder, upstream)
        said = fill(bench)
        optimize_in_process(bench, bench.target("parcels"), Effort())
        yield folder, said


@pytest.fixture
def optimised(once: tuple[Path, dict[str, list[str]]], tmp_path: Path) -> tuple[Workbench, dict[str, list[str]]]:
    """A copy of it, and what each user said."""
    folder, said = once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return Workbench.at(tmp_path / "route-switch.yaml"), said


def test_no_byte_of_a_forgotten_user_is_left_and_the_versions_that_quote_one_are_named(
    optimised: tuple[Workbench, dict[str, list[str]]],
) -> None:
    bench, said = optimised
    quoting = {demo.example_id for demo in bench.live(bench.target("parcels")).text.demos}
    origins = {example: trace for rows in bench.samples.origins().values() for example, trace in rows.items()}
    number = int(next(trace for example, trace in origins.items() if example in quoting and trace is not None))
    user = f"user-{number % N_USERS}-secret"
    before = folders(places(bench.data, said[user]))
    assert before >= {"traces.db", "lake", "samples", "studies", "cache", "prompts"}
    everybody = [text for texts in said.values() for text in texts]
    assert any(name.startswith("dagster/") for name in places(bench.data, everybody)), "it shows some rows"

    found = find(bench, end_user=user)
    assert (found.traces, found.feedback, found.lake_rows) == (20, 20, 40)
    assert [(v.template_id, v.version, v.live_for) for v in found.versions] == [("parcels", 2, ("tiny",))]
    forget_runs(bench, runs_of(bench, found.study_ids))
    forget(bench, found)

    assert folders(places(bench.data, said[user])) == {"prompts"}, "named, and not changed"
    assert find(bench, end_user=user).empty
    assert len(ids(bench.data / "traces.db")) == 160
    assert bench.lake.traces().collect().height == 160
    for other, texts in said.items():
        if other != user:
            assert {"traces.db", "lake", "samples"} <= folders(places(bench.data, texts))


def test_what_was_proven_with_a_forgotten_row_is_shown_and_published_no_more_and_a_new_search_can_start(
    optimised: tuple[Workbench, dict[str, list[str]]],
) -> None:
    bench, _ = optimised
    target = bench.target("parcels")
    before = results.comparison_of(bench, target)
    forget(bench, find(bench, end_user="user-3-secret"))
    after: Comparison = results.comparison_of(bench, target)
    assert after.verdict == before.verdict
    assert after.content_digest != after.comparison_id, "nothing that it says can be taken for the proof"
    sample = results.study_of(bench, target).sample_id
    with pytest.raises(StoreError, match="were forgotten: draw the sample again"):
        bench.samples.load(target, sample)
    again = optimize_in_process(bench, target, Effort())
    assert again.study_id != before.study_id
    assert len(bench.samples.load(target, results.study_of(bench, target).sample_id).examples) == 160


def test_one_trace_is_forgotten_with_its_imported_copy(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
    fill(bench)
    steps.ingest(bench)
    import_parcels(tmp_path, bench)
    found = find(bench, trace_ids=[f"{7:026d}", "no such trace"])
    assert dict(found.counts) | {"cached_answers": 0} == {
        **{"traces": 1, "feedback": 1, "lake_rows": 2, "sample_rows": 0, "studies": 0, "dataset_rows": 1},
        "cached_answers": 0,
    }
    forget(bench, found)
    assert len(bench.datasets.rows("parcels")) == 179
    assert not places(bench.data, ["number 7 has"])
    assert find(bench, trace_ids=[f"{7:026d}"]).empty


def test_the_newest_traces_can_be_forgotten_and_the_lake_goes_on(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
    fill(bench)
    steps.ingest(bench)
    forget(bench, find(bench, trace_ids=[f"{n:026d}" for n in range(170, 180)]))
    with opened(bench.data / "traces.db") as store:
        store.append(asked(500, "hello", "AX-1"))
    assert steps.ingest(bench).rows == 1
    assert bench.lake.traces().collect().height == 171


def test_a_running_gateway_neither_hinders_it_nor_keeps_a_copy(tmp_path: Path) -> None:
    bench = bench_at(tmp_path)
    with opened(bench.data / "traces.db") as store:
        for number in range(300):
            store.append(asked(number, f"secret words {number} " + "x" * (number * 37 % 9_000), "secret answer"))
    with writing_at_full_speed(bench.data / "traces.db"):
        found = find(bench, end_user="user-4-secret")
        forget(bench, found)
        assert find(bench, end_user="user-4-secret").empty
        texts = [f"secret words {n} " for n in range(4, 300, N_USERS)] + ["user-4-secret"]
        assert places(bench.data, texts) == set()
        assert places(bench.data, ["secret words 5 "])
    assert found.traces == 33


def test_a_run_at_work_is_not_disturbed_and_nothing_is_removed(
    optimised: tuple[Workbench, dict[str, list[str]]],
) -> None:
    bench, said = optimised
    found = find(bench, end_user="user-3-secret")
    before = places(bench.data, said["user-3-secret"])
    with bench.studies.lock(bench.target("parcels")), pytest.raises(StudyBusyError):
        Context().run(forget, bench, found)
    assert places(bench.data, said["user-3-secret"]) == before


def test_interrupted_it_is_finished_by_the_same_request(
    optimised: tuple[Workbench, dict[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, said = optimised
    user = "user-3-secret"

    def interrupted(_settings: Settings) -> TraceEraser:
        raise KeyboardInterrupt

    found = find(bench, end_user=user)
    runs = runs_of(bench, found.study_ids)
    with monkeypatch.context() as patched:
        patched.setattr(forgetting, "open_trace_eraser", interrupted)
        with pytest.raises(KeyboardInterrupt):
            forget(bench, found)
    forget_runs(bench, runs)
    forget(bench, find(bench, end_user=user))
    assert places(bench.data, said[user]) <= {
        f"prompts/parcels/versions/{version.version:04d}.yaml" for version in found.versions
    }


def test_whoever_stops_it_is_told_that_the_same_command_goes_on_and_sees_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
    fill(bench)
    steps.ingest(bench)
    monkeypatch.chdir(tmp_path)
    command, seen = ("forget", "--user", "user-3-secret", "--yes"), list[tuple[int, int | None]]()

    def see(_step: str, done: int, total: int | None) -> None:
        seen.append((done, total))

    def interrupted(_settings: Settings) -> TraceEraser:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        found = find(bench, end_user="user-3-secret", watch=see)
        patched.setattr(forgetting, "open_trace_eraser", interrupted)
        patched.setattr(forgetting, "find", lambda *_, **__: found)  # pyright: ignore[reportUnknownLambdaType]
        stopped = invoke(*command)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert "the same command finds what is left" in stopped.stderr
    assert seen == [(done, 4) for done in range(4)]
    assert from_json(*command)["found"]["traces"] == 20
    assert find(bench, end_user="user-3-secret").empty


def test_an_ingest_under_way_is_waited_for(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream)
    fill(bench)
    steps.ingest(bench)
    found = find(bench, end_user="user-1-secret")
    vars(bench)["lake"] = Lake(bench.data / "lake", lock_timeout_s=0.05)  # its own would wait half a minute
    with Lake(bench.data / "lake").edit(), pytest.raises(LakeBusyError):
        forget(bench, found)
    with closing(SqliteTraceReader(bench.data / "traces.db")) as reader:
        assert reader.trace(f"{1:026d}") is not None


def test_one_of_a_kind_is_said_as_one() -> None:
    versions = [QuotingVersion("triage", 2, ("large",), 1), QuotingVersion("triage", 3, (), 2)]
    one, several, live, draft = found_lines({"dagster_runs": 1, "feedback": 2, "traces": 0}, versions)
    assert one.strip() == "1 run in Dagster's history that may show them"
    assert several.strip() == "2 feedback rows"
    assert live.startswith("Version 2 of 'triage', live for large, quotes it in 1 demo:")
    assert draft.startswith("Version 3 of 'triage' quotes it in 2 demos:")


def test_what_an_interrupted_erasure_left_in_files_that_count_no_more_is_found_again(tmp_path: Path) -> None:
    bench = bench_at(tmp_path)
    with opened(bench.data / "traces.db") as store:
        for number in range(18):
            store.append(asked(number, f"number {number} has", "an answer"))
    steps.ingest(bench)
    gone = [f"{number:026d}" for number in (3, 12)]
    open_trace_eraser(bench.settings).erase(gone)  # as it expires in the trace store
    with bench.lake.edit() as lake:  # killed before its purge
        (part,) = lake.manifest.traces.parts
        kept = lake.read(TRACES, part).filter(~pl.col("trace_id").is_in(gone))
        lake.replace(TRACES, remove=[part], add=lake.write(TRACES, kept))
    found = find(bench, end_user="user-3-secret")
    assert (found.lake_rows, found.trace_ids) == (2, frozenset(gone))
    forget(bench, found)
    assert not places(tmp_path, ["user-3-secret"])
    assert find(bench, end_user="user-3-secret").empty
