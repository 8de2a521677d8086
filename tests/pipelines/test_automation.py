"""What starts by itself, as Dagster's daemon asks for it, on a real instance and real stores."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import polars as pl
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.domain.errors import StoreError
from rs_gateway.domain.feedback import Feedback, FeedbackKind
from rs_gateway.domain.traces import Outcome, Trace, Usage
from rs_gateway.wiring import open_registry
from rs_pipelines import planning, steps
from rs_pipelines.dataset_file import read_dataset
from rs_pipelines.definitions import build_defs
from rs_pipelines.defs.instance import opened_instance
from rs_pipelines.defs.launches import LastRun, last_run_of_target
from rs_pipelines.defs.requested_runs import RequestedRuns
from rs_pipelines.defs.resources import Stores
from rs_pipelines.defs.runs import add_partitions, optimize_in_process
from rs_pipelines.effort import Effort
from rs_pipelines.known_examples import mark_of
from rs_pipelines.live_scores import LIVE_SCORE_SCHEMA
from rs_pipelines.parquet_files import replace_parquet
from rs_pipelines.sample import Split
from rs_pipelines.workbench import Workbench
from tests.pipelines.parcels import LIVE, ORIGIN, parcel
from tests.pipelines.tiny_upstream import TEMPLATE, configuration, import_parcels, tiny, workbench
from tests.running import write_configuration
from tests.upstream import Upstream

KEY = "parcels@tiny"


@dataclass
class Daemon:
    """Ticks sensors and schedules as Dagster's daemon does: keeps their cursors, and records the runs they ask for.

    A run is recorded as one that has ended well, without having done anything.
    """

    bench: Workbench
    instance: dg.DagsterInstance

    def __post_init__(self) -> None:
        self.cursors: dict[str, str | None] = {}
        self.repository = build_defs().get_repository_def()
        self.resources = {"stores": Stores(self.fresh), "requested": RequestedRuns(lambda: self.clock_s)}
        self.clock_s = 0.0

    def tick(self, name: str) -> SensorExecutionData:
        data = self.looks(name)
        self.launches(data.run_requests or [])
        return data

    def scheduled(self, name: str) -> Any:
        data = self.schedule_looks(name)
        self.launches(data.run_requests or [])
        return data

    def launches(self, run_requests: Iterable[dg.RunRequest]) -> None:
        for request in run_requests:
            job_name = "ingest" if request.partition_key is None else "optimize"
            tags = {} if request.partition_key is None else {"dagster/partition": request.partition_key}
            self.instance.add_run(dg.DagsterRun(job_name=job_name, status=dg.DagsterRunStatus.SUCCESS, tags=tags))

    def looks(self, name: str) -> SensorExecutionData:
        """A tick of a sensor, before Dagster has recorded what it asks for."""
        context = dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursors.get(name),
            resources=self.resources,
            repository_def=self.repository,
        )
        data = self.repository.get_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = data.cursor
        return data

    def schedule_looks(self, name: str) -> Any:
        context = dg.build_schedule_context(
            instance=self.instance, resources=self.resources, repository_def=self.repository
        )
        return self.repository.get_schedule_def(name).evaluate_tick(context)

    def fresh(self) -> Workbench:
        """What a new process would see."""
        return Workbench.at(self.bench.settings.config_path)


@contextmanager
def daemon_on(folder: Path, **optimization: Any) -> Generator[Daemon]:
    with Upstream([tiny]).running() as upstream:
        gateway = {**configuration(upstream)["gateway"], "optimization": optimization}
        bench = workbench(folder, upstream, gateway=gateway)
        with opened_instance(bench) as instance:
            yield Daemon(bench, instance)


def label_more(folder: Path, bench: Workbench, numbers: range) -> None:
    lines = [
        msgspec.json.encode({"variables": e.variables, "expected": e.expected, "split": e.split.value})
        for e in (parcel(n, Split.TRAIN) for n in numbers)
    ]
    path = folder / "more.jsonl"
    path.write_bytes(b"\n".join(lines))
    bench.datasets.add("parcels", read_dataset(path, TEMPLATE))


async def store_one(path: Path) -> None:
    store = SqliteTraceStore(path)
    try:
        assert await store.committed(Trace("T1", 1.0, "m", Outcome.COMPLETE, False, 0.1, Usage.unknown()))
        await store.add_feedback(Feedback("F1", "T1", FeedbackKind.SCORE, 0.5, "human", 2.0))
    finally:
        store.close()


def requests(data: Any) -> list[tuple[str | None, str]]:
    return [(r.partition_key, r.tags.get("route-switch/because", "")) for r in data.run_requests or []]


def test_a_template_or_combination_that_is_registered_becomes_a_partition_by_itself(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        assert added(daemon.tick("new_targets")) == [KEY]
        add_partitions(daemon.bench)
        assert "every registered target" in str(daemon.tick("new_targets").skip_message)

        settings = msgspec.yaml.decode((tmp_path / "route-switch.yaml").read_bytes())
        other = {"template_id": "letters", "model": "large", "provider": "scripted"}
        settings["gateway"]["combinations"] += [
            {"id": "parcels-large", **other, "template_id": "parcels"},
            {"id": "letters-large", **other},
        ]
        write_configuration(tmp_path, settings)
        assert added(daemon.tick("new_targets")) == ["parcels@large"], "`letters` is not registered yet"
        template = replace(TEMPLATE, template_id="letters")
        open_registry(daemon.bench.settings).register(template, LIVE, origin=ORIGIN)
        assert added(daemon.tick("new_targets")) == ["parcels@large", "letters@large"]


def added(data: SensorExecutionData) -> list[str]:
    return [key for request in data.dynamic_partitions_requests or [] for key in request.partition_keys]


def test_enough_new_examples_start_a_study_and_those_it_has_seen_do_not(tmp_path: Path) -> None:
    with daemon_on(tmp_path, min_new_examples=20) as daemon:
        assert "0 new examples" in str(daemon.tick("new_examples").skip_message)
        import_parcels(tmp_path, daemon.bench)
        [(key, because)] = requests(daemon.tick("new_examples"))
        assert key == KEY
        assert because == "180 new examples of 180 (no study yet), 20 wanted"
        assert requests(daemon.tick("new_examples")) == [], "nothing has changed since it asked"
        run = optimize_in_process(daemon.bench, daemon.bench.target("parcels"), Effort())

        label_more(tmp_path, daemon.bench, range(500, 519))
        waiting = daemon.tick("new_examples")
        assert requests(waiting) == []
        assert f"19 new examples of 199 (since study {run.study_id})" in str(waiting.skip_message)
        label_more(tmp_path, daemon.bench, range(519, 521))
        assert [key for key, _ in requests(daemon.tick("new_examples"))] == [KEY]


@pytest.mark.parametrize("cursor", ["what?", "[1]"])
def test_a_cursor_that_somebody_wrote_in_the_ui_is_as_good_as_none(tmp_path: Path, cursor: str) -> None:
    with daemon_on(tmp_path, min_new_examples=10) as daemon:
        daemon.cursors["new_examples"] = cursor
        assert "new" in str(daemon.tick("new_examples").skip_message)
        assert daemon.cursors["new_examples"] != cursor


def test_a_damaged_table_of_live_scores_is_named_with_what_to_do(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        daemon.bench.live_scores.write_bytes(b"no parquet")
        with pytest.raises(StoreError, match=r"live_scores.parquet cannot be read.*remove it, and the next ingest"):
            daemon.looks("score_drift")


def test_a_template_that_is_to_be_left_alone_starts_nothing(tmp_path: Path) -> None:
    rules = {"min_new_examples": 20, "templates": {"parcels": {"enabled": False}}}
    with daemon_on(tmp_path, **rules) as daemon:
        import_parcels(tmp_path, daemon.bench)
        assert requests(daemon.tick("new_examples")) == []
        assert requests(daemon.scheduled("optimize_when_due")) == []


def test_a_templates_own_threshold_goes_before_the_general_one(tmp_path: Path) -> None:
    with daemon_on(tmp_path, min_new_examples=20, templates={"parcels": {"min_new_examples": 181}}) as daemon:
        import_parcels(tmp_path, daemon.bench)
        assert "181 wanted" in str(daemon.tick("new_examples").skip_message)


def test_after_a_failure_nothing_is_started_at_once_again_and_beside_a_run_nothing_at_all(tmp_path: Path) -> None:
    with daemon_on(tmp_path, min_new_examples=20) as daemon:
        import_parcels(tmp_path, daemon.bench)
        run = dg.DagsterRun(job_name="optimize", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": KEY})
        daemon.instance.add_run(run)
        assert "is under way" in str(daemon.tick("new_examples").skip_message)
        daemon.instance.report_run_failed(run)
        assert "not again by itself" in str(daemon.tick("new_examples").skip_message)


def test_a_sensor_and_a_schedule_that_look_in_the_same_second_start_one_run(tmp_path: Path) -> None:
    with daemon_on(tmp_path, min_new_examples=20, interval_seconds=0.001) as daemon:
        import_parcels(tmp_path, daemon.bench)
        asked = daemon.looks("new_examples")
        beside = daemon.schedule_looks("optimize_when_due")
        assert [key for key, _ in requests(asked)] == [KEY]
        assert requests(beside) == []
        assert "another sensor or schedule has just asked for a run" in str(beside.skip_message)
        daemon.launches(asked.run_requests or [])
        label_more(tmp_path, daemon.bench, range(500, 521))
        assert [key for key, _ in requests(daemon.schedule_looks("optimize_when_due"))] == [KEY], "that run has ended"


def test_a_run_that_dagster_never_recorded_is_asked_for_again(tmp_path: Path) -> None:
    with daemon_on(tmp_path, min_new_examples=20, interval_seconds=0.001) as daemon:
        import_parcels(tmp_path, daemon.bench)
        assert [key for key, _ in requests(daemon.schedule_looks("optimize_when_due"))] == [KEY]
        assert requests(daemon.looks("new_examples")) == []
        daemon.clock_s = 120.0
        assert [key for key, _ in requests(daemon.looks("new_examples"))] == [KEY], "what it passed over is not lost"


def test_new_traces_are_ingested_by_one_run_though_sensor_and_schedule_see_them(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        asyncio.run(store_one(tmp_path / "data/traces.db"))
        asked = daemon.looks("new_traces")
        assert len(asked.run_requests or []) == 1
        assert not daemon.schedule_looks("ingest_every_hour").run_requests


def test_a_run_that_was_launched_while_a_tick_looked_is_the_only_one(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        requested = RequestedRuns()

        def latest() -> LastRun | None:
            return last_run_of_target(daemon.instance, KEY, now_s=0.0)

        seen = latest()
        run = dg.DagsterRun(job_name="optimize", status=dg.DagsterRunStatus.SUCCESS, tags={"dagster/partition": KEY})
        daemon.instance.add_run(run)
        assert requested.why_not(KEY, seen=seen, latest=latest) == f"run {run.run_id[:8]} has just been launched"
        assert requested.why_not(KEY, seen=latest(), latest=latest) is None


def test_a_killed_command_line_is_in_nobodys_way(tmp_path: Path) -> None:
    with daemon_on(tmp_path, min_new_examples=20) as daemon:
        import_parcels(tmp_path, daemon.bench)
        process = f"{socket.gethostname()} {dead_process()}"
        tags = {"dagster/partition": KEY, "route-switch/process": process}
        daemon.instance.add_run(dg.DagsterRun(job_name="optimize", status=dg.DagsterRunStatus.STARTED, tags=tags))
        assert "failed or found no gain" in str(daemon.tick("new_examples").skip_message)
        assert [run.status for run in daemon.instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_fallen_live_score_starts_a_study_once(tmp_path: Path) -> None:
    def scored(*values: float) -> pl.DataFrame:
        rows = [(KEY, "parcels", "tiny", 1, "score", n, f"T{n}", v) for n, v in enumerate(values)]
        return pl.DataFrame(rows, schema=LIVE_SCORE_SCHEMA, orient="row")

    with daemon_on(tmp_path, drift_window=20) as daemon:
        assert "nobody has said" in str(daemon.tick("score_drift").skip_message)
        table = daemon.bench.live_scores
        replace_parquet(scored(*[1.0] * 40, *[0.5] * 19), table)
        assert requests(daemon.tick("score_drift")) == []
        replace_parquet(scored(*[1.0] * 40, *[0.5] * 20), table)
        [(key, because)] = requests(daemon.tick("score_drift"))
        assert key == KEY
        assert because.startswith("score of version 1: 1.000 -> 0.500 over the last 20 scores")
        assert requests(daemon.tick("score_drift")) == [], "the same block is no news"
        replace_parquet(scored(*[1.0] * 40, *[0.5] * 40), table)
        assert [key for key, _ in requests(daemon.tick("score_drift"))] == [KEY], "it is still low, after 20 more"


def test_the_schedule_starts_a_target_that_is_due_if_there_is_anything_new(tmp_path: Path) -> None:
    with daemon_on(tmp_path, interval_seconds=0.001) as daemon:
        import_parcels(tmp_path, daemon.bench)
        [(key, because)] = requests(daemon.scheduled("optimize_when_due"))
        assert (key, because) == (KEY, "no study yet: 180 examples")
        optimize_in_process(daemon.bench, daemon.bench.target("parcels"), Effort())
        assert "nothing new since study" in str(daemon.scheduled("optimize_when_due").skip_message)
        label_more(tmp_path, daemon.bench, range(500, 501))
        [(key, because)] = requests(daemon.scheduled("optimize_when_due"))
        assert (key, because) == (KEY, "the interval is over: 1 new examples")


def test_a_template_whose_labels_cannot_be_read_keeps_no_other_one_from_its_turn(tmp_path: Path) -> None:
    with daemon_on(tmp_path, interval_seconds=0.001) as daemon:
        import_parcels(tmp_path, daemon.bench)
        settings = msgspec.yaml.decode((tmp_path / "route-switch.yaml").read_bytes())
        other = {"id": "letters", "template_id": "letters", "model": "tiny", "provider": "scripted"}
        settings["gateway"]["combinations"].insert(0, other)
        write_configuration(tmp_path, settings)
        daemon.bench.registry.register(replace(TEMPLATE, template_id="letters"), LIVE, origin=ORIGIN)
        for path in (daemon.bench.settings.datasets_path / "parcels").glob("*.jsonl"):
            damaged = path.parent.with_name("letters") / path.name
            damaged.parent.mkdir(exist_ok=True)
            damaged.write_bytes(b"no rows")
        assert [key for key, _ in requests(daemon.schedule_looks("optimize_when_due"))] == [KEY]


def test_a_target_whose_interval_is_not_over_waits(tmp_path: Path) -> None:
    with daemon_on(tmp_path, interval_seconds=86_400) as daemon:
        import_parcels(tmp_path, daemon.bench)
        optimize_in_process(daemon.bench, daemon.bench.target("parcels"), Effort())
        label_more(tmp_path, daemon.bench, range(500, 600))
        assert "due in 86" in str(daemon.scheduled("optimize_when_due").skip_message)


@pytest.mark.parametrize("how", ["sensor", "schedule"])
def test_what_the_gateway_stored_is_ingested_once(tmp_path: Path, how: str) -> None:
    with daemon_on(tmp_path) as daemon:

        def tick() -> Any:
            return daemon.tick("new_traces") if how == "sensor" else daemon.scheduled("ingest_every_hour")

        assert "no new traces" in str(tick().skip_message)
        asyncio.run(store_one(tmp_path / "data/traces.db"))
        assert len(tick().run_requests) == 1
        steps.ingest(daemon.bench)
        assert "no new traces" in str(tick().skip_message)


def test_the_lake_is_packed_once_a_day_and_only_where_there_is_anything_to_pack(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        assert "is packed, and nothing expires" in str(daemon.scheduled("upkeep_every_day").skip_message)
        asyncio.run(store_one(tmp_path / "data/traces.db"))
        steps.ingest(daemon.bench)
        assert [part.packing for part in daemon.bench.lake.manifest().traces.parts] == ["fast"]
        assert len(daemon.scheduled("upkeep_every_day").run_requests) == 1
        job = build_defs({"stores": Stores(daemon.fresh)}).resolve_job_def("upkeep")
        assert job.execute_in_process(instance=daemon.instance).success
        assert [part.packing for part in daemon.bench.lake.manifest().traces.parts] == ["small"]
        assert daemon.bench.lake.traces(["trace_id"]).collect()["trace_id"].to_list() == ["T1"]
        assert "is packed" in str(daemon.scheduled("upkeep_every_day").skip_message)


def test_what_is_kept_no_longer_goes_also_where_nothing_new_comes(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        asyncio.run(store_one(tmp_path / "data/traces.db"))  # in 1970
        steps.ingest(daemon.bench)
        settings = msgspec.yaml.decode((tmp_path / "route-switch.yaml").read_bytes())
        write_configuration(tmp_path, {**settings, "privacy": {"retention": {"lake_days": 30}}})
        assert len(daemon.scheduled("upkeep_every_day").run_requests) == 1
        job = build_defs({"stores": Stores(daemon.fresh)}).resolve_job_def("upkeep")
        assert job.execute_in_process(instance=daemon.instance).success
        assert steps.lake_rows(daemon.fresh()) == (0, 0)


def test_no_upkeep_is_started_beside_another_one(tmp_path: Path) -> None:
    with daemon_on(tmp_path) as daemon:
        asyncio.run(store_one(tmp_path / "data/traces.db"))
        steps.ingest(daemon.bench)
        daemon.instance.add_run(dg.DagsterRun(job_name="upkeep", status=dg.DagsterRunStatus.STARTED))
        assert "is under way" in str(daemon.scheduled("upkeep_every_day").skip_message)


def test_what_a_study_was_drawn_from_is_known_even_where_the_sample_has_no_room_for_it(tmp_path: Path) -> None:
    with Upstream([tiny]).running() as upstream:
        bench = workbench(tmp_path, upstream, dataset={"max_records": 120})
        import_parcels(tmp_path, bench)
        target = bench.target("parcels")
        sample = steps.draw(bench, target)
        assert len(sample.examples) == 120
        known = bench.known_examples.load(target, sample.sample_id)
        assert known == {mark_of(e) for e in planning.gathered(bench, target).examples}
        assert len(known or ()) == 180
