"""What the stores on Postgres share: how they are reached, what they say when not, and how their tables come about."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rs_gateway.adapters.postgres_access import PostgresAccessStore
from rs_gateway.adapters.postgres_database import PostgresDatabase, PostgresPlace
from rs_gateway.adapters.postgres_prompts import PostgresPrompts
from rs_gateway.adapters.postgres_schema import PostgresSchema
from rs_gateway.adapters.postgres_stats import PostgresStatsReader
from rs_gateway.adapters.postgres_trace_schema import MIGRATIONS, TRACE_SCHEMA
from rs_gateway.adapters.postgres_traces import PostgresTraceReader, PostgresTraceStore
from rs_gateway.domain.errors import ConfigurationError, RegistryError, SchemaTooNewError, StoreError
from rs_gateway.settings import load_settings
from rs_gateway.wiring import open_access_store, open_registry, open_trace_reader, open_trace_store
from tests.e2e.processes import free_address
from tests.gateway.test_settings import MINIMAL
from tests.postgres import PASSWORD, Cluster
from tests.running import eventually, write_configuration

OPENERS: dict[str, Callable[[PostgresPlace], Any]] = {
    "traces": PostgresTraceStore,
    "access": PostgresAccessStore,
    "prompts": lambda place: PostgresPrompts(place).load(),
    "reader": lambda place: PostgresTraceReader(place).traces(after=0, limit=1),
    "stats": lambda place: PostgresStatsReader(place).stats(since_s=None),
}


# Reaching it


@pytest.mark.parametrize("kind", list(OPENERS))
def test_a_server_that_is_not_there_is_named_with_what_to_look_at(kind: str) -> None:
    address = free_address()
    with pytest.raises((StoreError, RegistryError)) as caught:
        OPENERS[kind](PostgresPlace(f"postgresql://rs@{address}/d", PASSWORD))
    message = str(caught.value)
    assert f"postgresql://rs@{address}/d cannot be reached" in message
    assert "check that the server runs, and that host, port, user and database in `stores." in message
    assert caught.value.__cause__ is None
    assert PASSWORD not in message


def test_a_wrong_password_is_refused_and_not_repeated(postgres: Cluster) -> None:
    url = postgres.url(user="guarded")
    for password in (PASSWORD[:-1], None):
        with pytest.raises(StoreError, match="password comes from the variable that the URL names") as caught:
            PostgresAccessStore(PostgresPlace(url, password))
        assert PASSWORD[:-1] not in str(caught.value)


def test_a_password_with_everything_in_it_that_a_url_escapes_opens_the_store(
    postgres: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute("GRANT CREATE ON DATABASE " + database.rpartition("/")[2] + " TO guarded")
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    url = database.replace("postgres@", "guarded:${DB_PASSWORD}@")
    stores = {"traces": url, "prompts": url, "access": url}
    settings = load_settings(write_configuration(tmp_path, {**MINIMAL, "stores": stores}))
    open_access_store(settings).close()
    assert open_registry(settings).load().templates == {}
    with closing(open_trace_reader(settings)) as reader:
        assert reader.traces(after=0, limit=1).rows == []


def test_the_password_may_come_from_where_libpq_looks(
    postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert PostgresPrompts(PostgresPlace(postgres.url(user="guarded"))).load().templates == {}


def test_a_unix_socket_will_do(postgres: Cluster) -> None:
    assert PostgresPrompts(PostgresPlace(postgres.socket_url())).load().templates == {}


@pytest.mark.parametrize("url", ["postgresql://db:port/d", "postgresql://db/d?sslmoode=require", "postgresql://[db/d"])
def test_a_url_that_libpq_cannot_read_is_refused_with_an_example(url: str) -> None:
    with pytest.raises((ConfigurationError, StoreError), match="postgresql://"):
        PostgresAccessStore(PostgresPlace(url, PASSWORD))


def test_a_missing_driver_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    gateway = {"addr": free_address()}
    write_configuration(tmp_path, {**MINIMAL, "gateway": gateway, "stores": {"traces": "postgresql://db/d"}})
    # `None` in sys.modules is Python's own way to say that a package cannot be imported.
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from rs_gateway.__main__ import main\nsys.argv = ['route-switch', 'serve']\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    said = " ".join(result.stderr.split())
    assert "stores.traces is on Postgres" in said
    assert "pip install 'route-switch[postgres]'" in said
    assert "Traceback" not in said


def test_a_size_for_the_store_is_refused_where_deleting_frees_no_disk(tmp_path: Path) -> None:
    sections = {"stores": {"traces": "postgresql://db/d"}, "privacy": {"retention": {"store_gb": 5}}}
    settings = load_settings(write_configuration(tmp_path, {**MINIMAL, **sections}))
    with pytest.raises(ConfigurationError, match="payload_days and trace_days"):
        open_trace_store(settings)


def test_a_user_without_rights_is_told_which_one_is_missing(postgres: Cluster, database: str) -> None:
    place = PostgresPlace(database.replace("postgres@", "guarded@"), PASSWORD)
    with pytest.raises(StoreError, match="GRANT CREATE ON DATABASE"):
        PostgresAccessStore(place)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restarted_server_is_found_again_without_an_error(postgres: Cluster, database: str, mode: Any) -> None:
    with closing(PostgresTraceReader(PostgresPlace(database))) as reader:
        assert reader.traces(after=0, limit=1).rows == []
        with postgres.stopped(mode), pytest.raises(StoreError, match="cannot be reached"):
            reader.traces(after=0, limit=1)
        assert reader.traces(after=0, limit=1).rows == []
        with postgres.stopped(mode):
            pass
        assert reader.traces(after=0, limit=1).rows == []


def test_a_database_that_is_forgotten_leaves_no_connection_behind(postgres: Cluster, database: str) -> None:
    name = database.rpartition("/")[2]
    PostgresPrompts(PostgresPlace(database)).load()
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    eventually(lambda: postgres.execute(sessions) == [(0,)])  # a server ends a session when it notices its end


# Tables


def test_two_gateways_that_start_at_once_make_the_tables_once(database: str) -> None:
    program = (
        "import sys\n"
        "from rs_gateway.adapters.postgres_access import PostgresAccessStore\n"
        "from rs_gateway.adapters.postgres_database import PostgresPlace\n"
        "from rs_gateway.adapters.postgres_traces import PostgresTraceStore\n"
        "place = PostgresPlace(sys.argv[1])\n"
        "sys.stdin.readline()\n"
        "PostgresTraceStore(place).close(); PostgresAccessStore(place).close()\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, database], stdin=subprocess.PIPE, text=True) for _ in range(3)
    ]

    def let_go(process: subprocess.Popen[str]) -> None:
        process.communicate("now\n", timeout=400)

    with ThreadPoolExecutor(3) as together:
        list(together.map(let_go, started))
    assert [process.returncode for process in started] == [0, 0, 0]
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT store, version FROM route_switch.schema_versions ORDER BY store").fetchall()
    assert found == [("access store", 1), ("trace store", len(MIGRATIONS))]


def test_a_migration_waits_for_the_one_that_another_gateway_has_begun(postgres: Cluster, database: str) -> None:
    first = PostgresSchema("trace store", "stores.traces", (("CREATE TABLE route_switch.t (n INTEGER)",),))
    second = PostgresSchema(
        "trace store", "stores.traces", (*first.migrations, ("INSERT INTO route_switch.t VALUES (1)",))
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    place = PostgresPlace(database)
    with ThreadPoolExecutor(2) as beside, psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('route_switch.schema_versions', 0))")
        opening = [beside.submit(PostgresDatabase(place, schema).open) for schema in (second, second)]
        while postgres.execute(waiting) != [(2,)]:
            assert not any(future.done() for future in opening)
        other.rollback()
        for future in opening:
            future.result()
        assert other.execute("SELECT n FROM route_switch.t").fetchall() == [(1,)]
    PostgresDatabase(place, second).open()


def test_a_store_of_a_newer_program_is_refused_and_left_alone(database: str) -> None:
    place = PostgresPlace(database)
    PostgresTraceStore(place).close()
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE route_switch.schema_versions SET version = version + 1")
    for kind in ("traces", "reader", "stats"):
        with pytest.raises(SchemaTooNewError, match=r"trace store postgresql://.*has schema 2.*upgrade route-switch"):
            OPENERS[kind](place)


def test_a_reader_of_an_older_store_asks_for_the_gateway(database: str) -> None:
    place = PostgresPlace(database)
    PostgresTraceStore(place).close()
    newer = PostgresSchema(TRACE_SCHEMA.store, TRACE_SCHEMA.key, (*MIGRATIONS, ("SELECT 1",)))
    reader = PostgresDatabase(place, newer)
    with pytest.raises(StoreError, match=r"has schema 1 and this program reads 2: start the gateway once"):
        reader.rows(b"SELECT 1", ())
    reader.open()
    assert reader.rows(b"SELECT 1", ()) == [(1,)]
    reader.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(database: str) -> None:
    place = PostgresPlace(database)
    PostgresTraceStore(place).close()
    broken = PostgresSchema(
        TRACE_SCHEMA.store, TRACE_SCHEMA.key, (*MIGRATIONS, ("DROP TABLE route_switch.feedback", "SELECT 1 / 0"))
    )
    with pytest.raises(StoreError, match="division by zero"):
        PostgresDatabase(place, broken).open()
    with closing(PostgresTraceReader(place)) as reader:
        assert reader.feedback(after=0, limit=1).rows == []
