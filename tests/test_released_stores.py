"""Stores that earlier programs made are read, brought to the newest schema, and written on; newer ones are refused.

`released_stores/` holds one small store of every schema that there ever was: `<store>-<schema>`, made by the program of
its time. Whoever raises a schema adds a migration and the store that the program before made.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from rs_gateway.adapters.file_schema import FileSchema
from rs_gateway.adapters.postgres_access import ACCESS_SCHEMA as POSTGRES_ACCESS_SCHEMA
from rs_gateway.adapters.postgres_access import PostgresAccessStore
from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_prompts import PROMPT_SCHEMA, PostgresPrompts
from rs_gateway.adapters.postgres_stats import PostgresStatsReader
from rs_gateway.adapters.postgres_trace_schema import TRACE_SCHEMA as POSTGRES_TRACE_SCHEMA
from rs_gateway.adapters.postgres_traces import PostgresTraceReader, PostgresTraceStore
from rs_gateway.adapters.prompt_files import REGISTRY_SCHEMA, PromptFiles
from rs_gateway.adapters.sqlite_access import SqliteAccessStore
from rs_gateway.adapters.sqlite_access_schema import ACCESS_SCHEMA
from rs_gateway.adapters.sqlite_schema import Schema
from rs_gateway.adapters.sqlite_trace_schema import TRACE_SCHEMA
from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.domain.access import KeyLimits
from rs_gateway.domain.errors import SchemaTooNewError
from rs_gateway.domain.prompts import ANY_MODEL, Demo
from rs_pipelines.answers import ANSWER_SCHEMA, AnswerCache, ModelAnswer
from rs_pipelines.datasets import DATASET_SCHEMA, DatasetStore
from rs_pipelines.evaluators.embedding_cache import EMBEDDING_SCHEMA, EmbeddingCache
from rs_pipelines.lake import Lake
from rs_pipelines.lake_manifest import SCHEMA_VERSION
from rs_pipelines.postgres_answers import ANSWER_SCHEMA as POSTGRES_ANSWER_SCHEMA
from rs_pipelines.postgres_answers import PostgresAnswerCache
from rs_pipelines.sample import Target
from rs_pipelines.sample_store import SAMPLE_SCHEMA, SampleStore
from rs_pipelines.spending import Allowance, Booking, Spending
from rs_pipelines.studies import StudyFiles
from rs_pipelines.study_schema import STUDY_SCHEMA
from tests.trace_files import a_trace, ids, opened

RELEASED = Path(__file__).parent / "released_stores"
POSTGRES_SCHEMAS = (POSTGRES_TRACE_SCHEMA, POSTGRES_ACCESS_SCHEMA, PROMPT_SCHEMA)
TARGET = Target("parcels", "tiny")
FIRST, SECOND = "01JN8XXXXXXXXXXXXXXXXXXXX1", "01JN8XXXXXXXXXXXXXXXXXXXX2"


def of(store: str) -> list[str]:
    """The released schemas of a store."""
    return sorted(path.name for path in RELEASED.glob(f"{store}-*"))


def database(name: str, path: Path) -> Path:
    """A database of an earlier program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((RELEASED / name).read_text())
    return path


def folder(name: str, path: Path) -> Path:
    """A folder of an earlier program."""
    shutil.copytree(RELEASED / name, path)
    return path


def shape(path: Path) -> dict[str, list[Any]]:
    """Tables and indexes with their columns."""
    with closing(sqlite3.connect(path)) as connection:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")]
        return {
            name: connection.execute(
                f"SELECT name, type, [notnull], dflt_value, pk FROM pragma_table_info('{name}')"
            ).fetchall()
            for name in sorted(names)
        }


@pytest.mark.parametrize(
    ("store", "newest"),
    [
        ("traces", len(TRACE_SCHEMA.migrations)),
        ("access", len(ACCESS_SCHEMA.migrations)),
        ("answers", len(ANSWER_SCHEMA.migrations)),
        ("embeddings", len(EMBEDDING_SCHEMA.migrations)),
        ("prompts", REGISTRY_SCHEMA.newest),
        ("studies", STUDY_SCHEMA.newest),
        ("samples", SAMPLE_SCHEMA.newest),
        ("datasets", DATASET_SCHEMA.newest),
        ("lake", SCHEMA_VERSION),
        ("postgres", max(len(schema.migrations) for schema in POSTGRES_SCHEMAS)),
        ("postgres_answers", len(POSTGRES_ANSWER_SCHEMA.migrations)),
    ],
)
def test_a_store_of_every_schema_is_kept(store: str, newest: int) -> None:
    assert [name.removesuffix(".sql") for name in of(store)] == [f"{store}-{n}" for n in range(1, newest + 1)]


@pytest.mark.parametrize("name", of("traces"))
def test_traces_of_an_earlier_program_are_read_and_written_on(name: str, tmp_path: Path) -> None:
    path = database(name, tmp_path / "traces.db")
    with opened(path) as store:
        store.append(a_trace("01NEW"))
    with opened(tmp_path / "fresh.db"):
        pass
    assert shape(path) == shape(tmp_path / "fresh.db")
    assert ids(path) == [FIRST, SECOND, "01NEW"]
    with closing(SqliteTraceReader(path)) as reader:
        row = reader.trace(FIRST)
        assert len(reader.feedback(after=0, limit=10).rows) == 2
    assert row is not None
    assert (row["end_user"], row["cost_usd"], row["endpoint"]) == ("user-0", 0.5, "chat.completions")
    assert row["response"] == '{"role":"assistant","content":"AX-1230"}'


@pytest.mark.parametrize("name", of("access"))
def test_client_keys_of_an_earlier_program_stay_in_force(name: str, tmp_path: Path) -> None:
    path = database(name, tmp_path / "access.db")
    with closing(SqliteAccessStore(path)) as store, closing(SqliteAccessStore(tmp_path / "fresh.db")) as fresh:
        (record,) = store.records(now_s=1_740_830_401.0)
        assert (record.key.key_id, record.secret_hash) == ("k1", b"hash")
        assert record.key.limits == KeyLimits(requests_per_minute=5, budget_usd=2.5)
        store.update("k1", lambda key: replace(key, name="new"))
        assert fresh.records(now_s=0.0) == []
    assert shape(path) == shape(tmp_path / "fresh.db")


@pytest.mark.parametrize("name", of("answers"))
def test_answers_that_an_earlier_program_paid_for_are_not_paid_for_again(name: str, tmp_path: Path) -> None:
    path = database(name, tmp_path / "answers.db")
    with closing(sqlite3.connect(path)) as connection:
        key, text = connection.execute("SELECT key, text FROM answers").fetchone()
        account, calls = connection.execute("SELECT account, calls FROM spending").fetchone()
    with closing(AnswerCache(path)) as cache, closing(AnswerCache(tmp_path / "fresh.db")):
        answer = cache.get(key)
        assert answer is not None
        assert answer.text == text
        assert cache.spending(account).calls == calls
        assert cache.charge(account, Allowance(calls=calls + 1), Booking(10))
        cache.put("new", ModelAnswer("x", "stop", 1, 1), account=account, booked=Booking(10))
    assert shape(path) == shape(tmp_path / "fresh.db")


@pytest.mark.parametrize("numbered", [True, False], ids=["schema 1", "before schemas had numbers"])
@pytest.mark.parametrize("name", of("embeddings"))
def test_embeddings_of_an_earlier_program_are_still_known(name: str, numbered: bool, tmp_path: Path) -> None:
    path = database(name, tmp_path / "embeddings.db")
    if not numbered:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 0")
    cache = EmbeddingCache(path)
    assert cache.get("all-MiniLM-L6-v2", ["where is my parcel"])["where is my parcel"].tolist() == pytest.approx(
        [0.6, 0.8, 0]
    )
    cache.put("all-MiniLM-L6-v2", {"new": np.array([1, 0, 0], np.float32)})
    assert cache.get("all-MiniLM-L6-v2", ["new"])["new"].tolist() == [1, 0, 0]
    EmbeddingCache(tmp_path / "fresh.db").get("m", ["a"])
    assert shape(path) == shape(tmp_path / "fresh.db")


@pytest.mark.parametrize("name", of("lake"))
@pytest.mark.parametrize("traces", of("traces"))
def test_a_lake_of_an_earlier_program_goes_on_where_it_was(name: str, traces: str, tmp_path: Path) -> None:
    lake, path = Lake(folder(name, tmp_path / "lake")), database(traces, tmp_path / "traces.db")
    assert lake.traces(["trace_id"]).collect()["trace_id"].to_list() == [FIRST, SECOND]
    with opened(path) as store:
        store.append(a_trace("01NEW"))
    with closing(SqliteTraceReader(path)) as reader:
        assert lake.ingest(reader).rows == 1
    assert sorted(lake.traces(["trace_id"]).collect()["trace_id"]) == [FIRST, SECOND, "01NEW"]
    assert lake.feedback().collect().height == 2


@pytest.mark.parametrize("name", of("prompts"))
def test_prompts_of_an_earlier_program_are_served_and_get_new_versions(name: str, tmp_path: Path) -> None:
    registry = PromptFiles(folder(name, tmp_path / "prompts"))
    state = registry.load()
    assert state.problems == {}
    registered = state.templates["parcels"]
    assert dict(registered.serving) == {ANY_MODEL: 1, "tiny": 2}
    text = registered.versions[2].text
    assert (len(text.demos), text.user) == (2, "{message}")
    assert registry.add_version("parcels", text, model=None, origin=registered.versions[2].origin).number == 3


@pytest.mark.parametrize("name", of("studies"))
def test_studies_of_an_earlier_program_can_be_looked_at(name: str, tmp_path: Path) -> None:
    studies = StudyFiles(folder(name, tmp_path / "studies"))
    study = studies.latest(TARGET)
    assert study is not None
    assert study.finished
    assert study.text_of(study.best) == study.best_text
    comparison = studies.load_comparison(TARGET, study.study_id)
    assert comparison is not None
    assert study.best_text is not None
    assert comparison.candidate_hash == study.best_hash == study.best_text.content_hash
    assert comparison.content_digest == comparison.comparison_id, "it is still the proof that it was"
    studies.save_study(study)
    assert studies.latest(TARGET) == study


@pytest.mark.parametrize("name", of("samples"))
def test_samples_of_an_earlier_program_are_what_their_ids_say(name: str, tmp_path: Path) -> None:
    sample = SampleStore(folder(name, tmp_path / "samples")).latest(TARGET)
    assert sample is not None
    assert len(sample.examples) == 24


@pytest.mark.parametrize("name", of("datasets"))
def test_rows_that_an_earlier_program_imported_are_still_there(name: str, tmp_path: Path) -> None:
    (row,) = DatasetStore(folder(name, tmp_path / "datasets")).rows("parcels")
    assert (row.variables, row.expected, row.split, row.row_id) == (
        {"message": "parcel BZ-9999"},
        "BZ-9999",
        "test",
        "7",
    )


def read_embeddings(path: Path) -> object:
    return EmbeddingCache(path).get("m", ["a"])


def read_prompts(root: Path) -> object:
    return PromptFiles(root).load()


def read_one_prompt(root: Path) -> object:
    return PromptFiles(root).get("parcels")


def read_study(root: Path) -> object:
    return StudyFiles(root).load_study(TARGET, "s")


def read_sample(root: Path) -> object:
    return SampleStore(root).load(TARGET, "s")


def read_rows(root: Path) -> object:
    return DatasetStore(root).rows("parcels")


@pytest.mark.parametrize(
    ("schema", "open_store"),
    [
        (TRACE_SCHEMA, SqliteTraceStore),
        (ACCESS_SCHEMA, SqliteAccessStore),
        (ANSWER_SCHEMA, AnswerCache),
        (EMBEDDING_SCHEMA, read_embeddings),
    ],
)
def test_a_database_of_a_newer_program_is_refused_with_both_versions_and_left_alone(
    schema: Schema, open_store: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    message = rf"{schema.store} .*store\.db has schema 99, .* up to {len(schema.migrations)}: upgrade route-switch, or"
    with pytest.raises(SchemaTooNewError, match=message):
        open_store(path)
    assert shape(path) == {}


@pytest.mark.parametrize(
    ("schema", "open_store"),
    [
        (REGISTRY_SCHEMA, read_prompts),
        (REGISTRY_SCHEMA, read_one_prompt),
        (STUDY_SCHEMA, read_study),
        (SAMPLE_SCHEMA, read_sample),
        (DATASET_SCHEMA, read_rows),
    ],
)
def test_a_folder_of_a_newer_program_is_refused_with_both_versions(
    schema: FileSchema, open_store: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text('{"schema": 99}')
    message = f"{schema.store} .* has schema 99, .* up to {schema.newest}: upgrade route-switch, or point"
    with pytest.raises(SchemaTooNewError, match=message):
        open_store(tmp_path)


@pytest.mark.parametrize("n_done", range(3))
def test_a_migration_that_fails_leaves_the_database_as_it_was(n_done: int, tmp_path: Path) -> None:
    path = database("traces-1.sql", tmp_path / "traces.db")
    before = shape(path)
    good = TRACE_SCHEMA.migrations[1][:n_done]
    broken = Schema("trace store", "stores.traces", (TRACE_SCHEMA.migrations[0], (*good, "ALTER TABLE nowhere DROP x")))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            broken.migrate(connection, path)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert shape(path) == before


@pytest.mark.parametrize("name", of("postgres"))
def test_stores_that_an_earlier_program_kept_in_postgres_are_read_and_written_on(name: str, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute((RELEASED / name).read_bytes())
    place = PostgresPlace(database)
    with closing(PostgresTraceStore(place)) as store:
        store.append(a_trace("01NEW"))
    with closing(PostgresTraceReader(place)) as reader:
        page = reader.traces(after=0, limit=10)
        assert [row[page.columns.index("trace_id")] for row in page.rows] == [FIRST, SECOND, "01NEW"]
        assert len(reader.feedback(after=0, limit=10).rows) == 1
        row = reader.trace(FIRST)
    assert row is not None
    assert (row["end_user"], row["response"]) == ("ann", '{"role":"assistant","content":"hello"}')
    with closing(PostgresStatsReader(place)) as stats:
        assert sum(found.figures.requests for found in stats.stats(since_s=None)) == 3
    with closing(PostgresAccessStore(place)) as keys:
        (record,) = keys.records(now_s=1_772_366_401.0)
        assert record.key.limits == KeyLimits(requests_per_minute=60, budget_usd=5.0)
        assert (record.secret_hash, record.usage["total"].tokens) == (b"1" * 32, 30)
        keys.update("k1", lambda key: replace(key, name="new"))
    registry = PostgresPrompts(place)
    live = registry.load().templates["parcels"].live("tiny")
    assert live is not None
    assert (live.number, live.text.user, live.text.demos) == (2, "{text}", (Demo("a", "b"),))
    assert registry.add_version("parcels", live.text, model=None, origin=live.origin).number == 3


@pytest.mark.parametrize("name", of("postgres_answers"))
def test_answers_that_an_earlier_program_kept_in_postgres_are_not_paid_for_again(name: str, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute((RELEASED / name).read_bytes())
    with closing(PostgresAnswerCache(database)) as cache:
        assert cache.get("0a1b") == ModelAnswer("AX-1234", "stop", 12, 3, cached=True)
        assert cache.spending("study") == Spending(1, 12, 3, 15, 0.25)
        assert cache.charge("study", Allowance(calls=2), Booking(10))
        cache.put("new", ModelAnswer("x", "stop", 1, 1), account="study", booked=Booking(10))
        assert not cache.charge("study", Allowance(calls=2), Booking(10))


def test_answers_in_postgres_of_a_newer_program_are_refused_with_both_versions(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute((RELEASED / "postgres_answers-1.sql").read_bytes())
        connection.execute("UPDATE route_switch.schema_versions SET version = 99")
    message = r"answer cache .* has schema 99, .* up to 1: upgrade route-switch, or"
    with closing(PostgresAnswerCache(database)) as cache, pytest.raises(SchemaTooNewError, match=message):
        cache.get("0a1b")
