"""The lake on object storage, against an S3 server on loopback: as on a disk, nothing lost and nothing doubled."""

import contextlib
from collections.abc import Callable, Generator

import boto3
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from rs_gateway.domain.errors import StoreError
from rs_pipelines.analysis.traffic import scored_traces
from rs_pipelines.lake import Lake
from rs_pipelines.lake_bucket import LakeBucket
from rs_pipelines.lake_files import LakeBusyError
from rs_pipelines.lake_schema import TRACES
from tests.e2e.processes import free_address
from tests.pipelines.stored_rows import DAY_S, NOON, FakeTraceReader


class Killed(BaseException):
    """The process died here."""


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    host, _, port = free_address().partition(":")
    moto = ThreadedMotoServer(ip_address=host, port=int(port), verbose=False)
    moto.start()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.name)) % 10**8}"
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}/lake"


def filled(n: int) -> FakeTraceReader:
    reader = FakeTraceReader()
    for number in range(n):
        reader.add_trace(started_at=NOON + (number % 3) * DAY_S)
    return reader


def ids(lake: Lake) -> list[str]:
    return lake.traces(["trace_id"]).collect()["trace_id"].sort().to_list()


def killing_at(step: int) -> Callable[[str], None]:
    taken = 0

    def before_step(name: str) -> None:
        nonlocal taken
        if taken == step:
            raise Killed(name)
        taken += 1

    return before_step


def test_what_was_ingested_is_read_by_polars_and_by_duckdb(bucket: str) -> None:
    lake = Lake(bucket)
    assert lake.ingest(filled(7)).rows == 7
    assert len(ids(lake)) == 7
    with lake.duckdb_connection() as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT dt) FROM traces").fetchone() == (7, 3)


def test_the_next_ingest_brings_only_what_is_new(bucket: str) -> None:
    reader = filled(5)
    assert Lake(bucket).ingest(reader).rows == 5
    assert Lake(bucket).ingest(reader).rows == 0
    reader.add_trace(started_at=NOON)
    assert Lake(bucket).ingest(reader).rows == 1
    assert len(set(ids(Lake(bucket)))) == len(ids(Lake(bucket))) == 6


def test_an_ingest_killed_anywhere_loses_and_doubles_no_row(bucket: str) -> None:
    reader, step, killed = filled(6), 0, True
    while killed:
        killed = False
        url = f"{bucket}/{step}"
        with contextlib.suppress(Killed):
            killed = True
            Lake(url, before_step=killing_at(step)).ingest(reader, page_rows=2)
            killed = False
        Lake(url).ingest(reader, page_rows=2)
        found = ids(Lake(url))
        assert len(found) == len(set(found)) == 6, step
        step += 1
    assert step > 10


def test_whoever_was_overtaken_overwrites_nothing(bucket: str) -> None:
    slow, quick = LakeBucket(bucket), LakeBucket(bucket)
    with slow.alone():
        assert slow.manifest() is None
        # As if the lease had ended in between, unnoticed.
        quick.manifest()
        quick.replace_manifest(b"quick")
        with pytest.raises(LakeBusyError, match="changed by another process"):
            slow.replace_manifest(b"slow")
    assert quick.manifest() == b"quick"


def test_a_second_writer_waits_and_is_told_who_writes(bucket: str) -> None:
    second = LakeBucket(bucket, lock_timeout_s=0)
    with LakeBucket(bucket).alone(), pytest.raises(LakeBusyError, match="being changed by process"), second.alone():
        raise AssertionError("two writers")
    with LakeBucket(bucket, lock_timeout_s=0).alone():
        pass


def test_the_lease_of_a_killed_writer_ends_and_one_that_lives_is_renewed(bucket: str) -> None:
    now = 1_000.0
    dead = LakeBucket(bucket, now=lambda: now, lease_s=60)
    block = dead.alone()
    block.__enter__()
    now += 45
    dead.write_part("traces/dt=2026-01-01/a.parquet", pl.DataFrame({"seq": [1]}), packing="fast")  # renews
    now += 45
    other = LakeBucket(bucket, now=lambda: now, lease_s=60, lock_timeout_s=0)
    with pytest.raises(LakeBusyError), other.alone():
        pass
    now += 60
    with other.alone(), pytest.raises(LakeBusyError, match="changed by another process"):
        dead.write_part("traces/dt=2026-01-01/b.parquet", pl.DataFrame({"seq": [2]}), packing="fast")
    block.__exit__(None, None, None)


def test_a_bucket_that_is_not_there_is_an_error_that_names_it_and_the_variables(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/lake cannot be reached.*AWS_ENDPOINT_URL"):
        Lake("s3://no-such-bucket/lake").ingest(filled(1))


def test_whoever_has_it_open_reads_on_after_an_erasure(bucket: str) -> None:
    lake = Lake(bucket)
    lake.ingest(filled(6))
    with lake.duckdb_connection() as connection:
        traces = scored_traces(lake)
        with lake.edit() as edit:
            for part in edit.manifest.traces.parts:
                kept = edit.read(TRACES, part).filter(pl.col("seq") > 2)
                edit.replace(TRACES, remove=[part], add=edit.write(TRACES, kept))
            edit.purge()
        assert connection.execute("SELECT count(*) FROM traces").fetchone() == (4,)
        assert traces.collect().height == 4
