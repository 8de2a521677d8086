"""Two gateway processes on one Postgres, as on two hosts: what one is told, both know."""

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from rs_gateway.adapters.postgres_access import PostgresAccessStore
from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_prompts import PostgresPrompts
from rs_gateway.adapters.postgres_traces import PostgresTraceReader
from rs_gateway.domain.access import KeyLimits
from rs_gateway.domain.prompts import PromptTemplate, PromptText
from rs_gateway.keys import Grant, issue_key
from tests import upstream as wire
from tests.e2e.processes import answers, free_address, route_switch, started
from tests.gateway.keyed import auth, check_one_account_of_60, priced
from tests.gateway.test_chat import HELP
from tests.postgres import PASSWORD, Cluster
from tests.running import ORIGIN, eventually, write_configuration
from tests.upstream import Exchange, Upstream

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Pair:
    """Two running gateways, each with a folder of its own and nothing in it but its configuration."""

    clients: tuple[httpx.Client, httpx.Client]
    folders: tuple[Path, Path]
    place: PostgresPlace
    upstream: Upstream

    def key(self, name: str, *, limits: KeyLimits | None = None, admin: bool = False) -> str:
        """The secret of a new key, once both gateways know it."""
        with closing(PostgresAccessStore(self.place)) as store:
            secret = issue_key(
                store, Grant(name, limits=limits or KeyLimits(), admin=admin), by="ann", now_s=1.0
            ).secret
        for which in (0, 1):
            eventually(lambda which=which: self.send(which, "GET", "/v1/models", secret).status_code == 200)
        return secret

    def send(self, which: int, method: str, path: str, secret: str | None = None, body: Any = None) -> httpx.Response:
        headers = {} if secret is None else auth(secret)
        return self.clients[which].request(method, path, headers=headers, json=body)

    def ask(self, which: int, secret: str | None = None) -> httpx.Response:
        return self.send(which, "POST", "/v1/chat/completions", secret, HELP)

    def get(self, which: int, path: str, secret: str | None = None) -> Any:
        return self.send(which, "GET", path, secret).json()

    def rows(self) -> list[dict[str, object]]:
        with closing(PostgresTraceReader(self.place)) as reader:
            page = reader.traces(after=0, limit=10_000)
        return [dict(zip(page.columns, row, strict=True)) for row in page.rows]


@pytest.fixture(scope="module")
def gateways(shared_cluster: Cluster | None, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair | None]:
    """Started once: every test makes the keys that it asks with. None where Postgres is not installed."""
    if shared_cluster is None:
        yield None
        return
    database = shared_cluster.new_database()
    shared_cluster.execute("GRANT CREATE ON DATABASE " + database.rpartition("/")[2] + " TO guarded")
    url = database.replace("postgres@", "guarded:${DB_PASSWORD}@")
    addresses = free_address(), free_address()
    urls = f"http://{addresses[0]}", f"http://{addresses[1]}"
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    place = PostgresPlace(database.replace("postgres@", "guarded@"), PASSWORD)
    template = PromptTemplate("support", "support", ("customer_name",), {"name": "ExactMatch"})
    PostgresPrompts(place).register(template, PromptText("You help {customer_name}."), origin=ORIGIN)
    with Upstream([wire.answers("ok")]).running() as upstream:
        for folder, address in zip(folders, addresses, strict=True):
            settings = priced(upstream, stores={"traces": url, "prompts": url, "access": url})
            settings["gateway"]["addr"] = address
            settings["api"]["timeout_seconds"] = 240
            write_configuration(folder, settings)
        env = {"DB_PASSWORD": PASSWORD}
        # Both at once, and neither finds the tables of traces and keys.
        with started("serve", cwd=folders[0], env=env), started("serve", cwd=folders[1], env=env):
            eventually(lambda: all(answers(f"{url}/health") for url in urls), timeout_s=240)
            with (
                httpx.Client(base_url=urls[0], timeout=60) as first,
                httpx.Client(base_url=urls[1], timeout=60) as second,
            ):
                yield Pair((first, second), folders, place, upstream)
    for folder in folders:
        log = (folder / "process.log").read_text()
        assert PASSWORD not in log
        assert "Traceback" not in log
        assert sorted(path.name for path in folder.iterdir()) == ["process.log", "route-switch.yaml"]


@pytest.fixture
def pair(gateways: Pair | None, postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> Pair:
    assert gateways is not None
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    return gateways


def test_a_key_made_and_revoked_at_one_gateway_counts_at_the_other(pair: Pair) -> None:
    assert [pair.ask(which).status_code for which in (0, 1)] == [200, 200], "there is no key yet"
    issued = json.loads(route_switch("keys", "create", "shop", "--json", cwd=pair.folders[0]).stdout)
    for which in (0, 1):
        eventually(lambda which=which: pair.ask(which).status_code == 401)
        eventually(lambda which=which: pair.ask(which, issued["key"]).status_code == 200)
    boss = pair.key("boss", admin=True)
    made = pair.send(1, "POST", "/admin/keys", boss, {"name": "till"}).json()
    eventually(lambda: pair.ask(0, made["key"]).status_code == 200)
    assert route_switch("keys", "revoke", issued["key_id"], cwd=pair.folders[1]).returncode == 0
    for which in (0, 1):
        eventually(lambda which=which: pair.ask(which, issued["key"]).status_code == 401)


@pytest.mark.parametrize("limits", [KeyLimits(requests_per_minute=60), KeyLimits(budget_usd=60 * 14)])
def test_the_rate_and_the_budget_of_a_key_are_shared(pair: Pair, limits: KeyLimits) -> None:
    secret = pair.key("limited", limits=limits)
    filling_per_s = (limits.requests_per_minute or 0) / 60
    check_one_account_of_60(lambda number: pair.ask(number % 2, secret).status_code, filling_per_s=filling_per_s)


def test_a_stream_at_one_gateway_takes_the_place_that_the_other_may_not_give(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = pair.key("one at a time", limits=KeyLimits(concurrency=1))
    first = wire.chunk({"role": "assistant", "content": "a"})
    stall, answer = wire.sends([first, wire.chunk({"content": "b"})], then="stall"), wire.answers("ok")

    async def streams_stall(exchange: Exchange) -> None:
        await (stall if exchange.body.get("stream") else answer)(exchange)

    monkeypatch.setattr(pair.upstream, "script", [streams_stall])
    asked, body = "/v1/chat/completions", {**HELP, "stream": True}
    with pair.clients[0].stream("POST", asked, json=body, headers=auth(secret)) as stream:
        assert next(stream.iter_raw())
        eventually(lambda: pair.ask(1, secret).status_code == 429)
    eventually(lambda: pair.ask(1, secret).status_code == 200)


def test_a_publication_at_one_gateway_is_soon_served_by_both(pair: Pair) -> None:
    boss, template = pair.key("boss", admin=True), "/admin/templates/support"
    added = pair.send(0, "POST", f"{template}/versions", boss, {"instruction": "Two, {customer_name}."})
    assert added.status_code == 201
    live = pair.send(1, "POST", f"{template}/live", boss, {"version": 2, "reason": "better"})
    assert live.status_code == 200
    for which in (0, 1):
        eventually(lambda which=which: pair.ask(which, boss).headers["x-route-switch-version"] == "2")
        assert pair.get(which, template, boss)["history"][-1]["reason"] == "better"
    shown = route_switch("template", "list", "--json", cwd=pair.folders[0])
    assert json.loads(shown.stdout)[0]["serving"] == {"*": 2}


def test_traces_feedback_and_figures_of_both_are_in_one_store(pair: Pair) -> None:
    key = pair.key("boss", admin=True)
    eventually(lambda: pair.get(0, "/health/storage")["queued"] == pair.get(1, "/health/storage")["queued"] == 0)

    def requests(which: int, path: str) -> int:
        return pair.get(which, path, key)["windows"]["all"]["overall"]["requests"]

    paths = "/v1/prompts/support/stats", "/v1/system/analytics"
    before, counted = len(pair.rows()), [requests(0, path) for path in paths]
    answers = [pair.ask(number % 2, key) for number in range(20)]
    trace_ids = {answer.headers["x-route-switch-trace-id"] for answer in answers}
    eventually(lambda: {row["trace_id"] for row in pair.rows()[before:]} == trace_ids)
    first_id = answers[0].headers["x-route-switch-trace-id"]
    said = pair.send(1, "POST", "/v1/feedback", key, {"trace_id": first_id, "kind": "score", "value": 0.5})
    assert said.status_code == 201, said.text
    explained = route_switch("explain", first_id, "--json", cwd=pair.folders[1])
    assert json.loads(explained.stdout)["combination_id"] == "on-p1"
    for which in (0, 1):
        assert [requests(which, path) for path in paths] == [known + 20 for known in counted]
        assert pair.send(which, "GET", "/metrics", key).status_code == 200
    assert json.loads(route_switch("check", "--json", cwd=pair.folders[0]).stdout)["ok"]


def test_a_database_that_goes_away_stops_no_answer_and_loses_no_trace(pair: Pair, postgres: Cluster) -> None:
    key = pair.key("boss", admin=True)
    with postgres.stopped("immediate"):
        asked = [pair.ask(number % 2, key) for number in range(10)]
        assert {answer.status_code for answer in asked} == {200}
        for which in (0, 1):
            for part in ("error", "access_error", "registry_error"):
                eventually(lambda which=which, part=part: bool(pair.get(which, "/health/storage")[part]))
            health = pair.send(which, "GET", "/health/storage")
            assert (health.status_code, health.json()["dropped"]) == (503, 0)
            refused = pair.send(which, "GET", "/v1/system/analytics", key)
            assert refused.status_code == 503
            assert PASSWORD not in health.text + refused.text
    for which in (0, 1):
        eventually(lambda which=which: pair.get(which, "/health/storage")["ok"])
    trace_ids = {answer.headers["x-route-switch-trace-id"] for answer in asked}
    eventually(lambda: trace_ids <= {row["trace_id"] for row in pair.rows()})
