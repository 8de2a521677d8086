"""`route-switch traces | feedback | stats`: what is read from the store and what is added to it, beside the gateway."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rs_gateway.adapters.sqlite_traces import SqliteTraceReader, SqliteTraceStore
from rs_gateway.domain.errors import InvalidRequestError, StoreError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.ports import NewestPositions, StoredRows
from rs_gateway.domain.traces import Outcome, Trace, Usage, UsageSource
from rs_gateway.instants import instant_s
from rs_gateway.trace_facts import Wanted, newest
from tests.commands import failure, from_json, invoke, ok
from tests.trace_files import a_trace

NOW_S = 1_750_000_000.0


def trace(number: int, **changes: Any) -> Trace:
    made = replace(
        a_trace(f"01JXQE4R0000000000000000{number:02d}", content=f"secret {number}"), started_at=NOW_S + number
    )
    made = replace(made, template_id="orders", version=1, combination_id="big", provider="openai", model="gpt-4")
    return replace(made, usage=Usage(10, 2, UsageSource.PROVIDER), cost_usd=0.001, **changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "route-switch.yaml").write_text("data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep(folder: Path, *traces: Trace) -> None:
    async def commit(store: SqliteTraceStore) -> None:
        for one in traces:
            store.append(one)
        assert await store.committed(trace(99, template_id="last"))

    with closing(SqliteTraceStore(folder / "data/traces.db")) as store:
        asyncio.run(commit(store))


@pytest.fixture
def stored(folder: Path) -> Path:
    failed = trace(3, outcome=Outcome.PROVIDER_ERROR, error_code="provider_overloaded")
    keep(folder, *(trace(n) for n in range(3)), failed, trace(4, template_id="other"))
    return folder


def feedback_in(folder: Path) -> list[dict[str, Any]]:
    with closing(SqliteTraceReader(folder / "data/traces.db")) as reader:
        page = reader.feedback(after=0, limit=1_000)
    return [dict(zip(page.columns, row, strict=True)) for row in page.rows]


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# tail, show, export


def test_tail_ends_with_the_newest_and_shows_nothing_that_was_said(stored: Path) -> None:
    lines = ok("traces", "tail", "-n", "2").stdout.splitlines()
    assert [line.split()[3] for line in lines] == [trace(4).trace_id, trace(99).trace_id]
    assert "10/2 tokens  0.001000 USD" in lines[0]
    found = json_lines(ok("traces", "tail", "-n", "3", "--template-id", "orders", "--json").stdout)
    assert [one["trace_id"][-2:] for one in found] == ["01", "02", "03"]
    assert "provider_error (provider_overloaded)" in ok("traces", "tail", "--outcome", "provider_error").stdout
    assert "secret" not in ok("traces", "tail", "--json").stdout


def test_tail_of_an_empty_store_says_so_and_makes_none(folder: Path) -> None:
    result = ok("traces", "tail")
    assert (result.stdout, result.stderr) == ("", "The store holds no such trace.\n")
    assert not (folder / "data").exists()


def test_tail_follows_what_comes_until_it_is_stopped(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(range(3))

    def come(_: float) -> None:
        n = next(rounds)
        if n == 2:
            raise KeyboardInterrupt
        keep(stored, trace(10 + n))

    monkeypatch.setattr(time, "sleep", come)
    lines = ok("traces", "tail", "-n", "0", "-f", "--template-id", "orders").stdout.splitlines()
    assert [line.split()[3][-2:] for line in lines] == ["10", "11"]


def test_wrong_usage_of_tail_ends_with_2(stored: Path) -> None:
    assert invoke("traces", "tail", "--outcome", "lovely").exit_code == 2
    assert invoke("traces", "tail", "-n", "-1").exit_code == 2


def test_show_has_all_that_is_stored(stored: Path) -> None:
    trace_id = trace(1).trace_id
    found = from_json("traces", "show", trace_id)
    assert found["request_messages"] == [{"role": "user", "content": "secret 1"}]
    assert yaml.safe_load(ok("traces", "show", trace_id).stdout) == found
    assert "secret" not in ok("traces", "show", trace_id, "--no-payload").stdout
    assert "is no trace id" in failure("traces", "show", "nonsense")
    assert "holds no trace" in failure("traces", "show", trace(50).trace_id)


def test_export_writes_json_lines_to_stdout_or_to_a_whole_file(stored: Path) -> None:
    result = ok("traces", "export")
    assert [one["trace_id"][-2:] for one in json_lines(result.stdout)] == ["00", "01", "02", "03", "04", "99"]
    assert "6 traces." in result.stderr
    picked = from_json("traces", "export", "-o", "some.jsonl", "--template-id", "orders", "--outcome", "complete")
    assert picked == {"traces": 3, "file": "some.jsonl"}
    assert "secret 2" in (stored / "some.jsonl").read_text()
    assert "is there already" in failure("traces", "export", "-o", "some.jsonl")
    ok("traces", "export", "-o", "some.jsonl", "--overwrite", "--no-payload")
    assert "secret" not in (stored / "some.jsonl").read_text()
    assert "cannot be written" in failure("traces", "export", "-o", "no/where.jsonl")


def test_export_goes_by_when_requests_began(stored: Path) -> None:
    def at(second: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(NOW_S + second))

    found = json_lines(ok("traces", "export", "--since", at(1), "--until", at(3)).stdout)
    assert [one["trace_id"][-2:] for one in found] == ["01", "02"]
    assert json_lines(ok("traces", "export", "--since", "2h").stdout) == []
    assert "'noon' is no moment" in failure("traces", "export", "--since", "noon")


def test_an_export_that_breaks_leaves_the_old_file(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stored / "old.jsonl").write_text("old")

    def broken(*_: object, **__: object) -> StoredRows:
        raise StoreError("the disk went away")

    monkeypatch.setattr(SqliteTraceReader, "traces", broken)
    assert "the disk went away" in failure("traces", "export", "-o", "old.jsonl", "--overwrite")
    assert [path.name for path in stored.glob("*.jsonl")] == ["old.jsonl"]
    assert (stored / "old.jsonl").read_text() == "old"
    assert not list(stored.glob(".old*"))


class SparseReader:
    """A store whose positions are far apart, as those of a transaction counter are."""

    def __init__(self, n: int) -> None:
        self._rows = [(65_536 * (k + 1), k) for k in range(n)]

    def traces(self, *, after: int, limit: int) -> StoredRows:
        rows = [row for row in self._rows if row[0] > after][:limit]
        last = rows[-1][0] if rows else after
        columns = ("seq", "trace_id", "template_id", "outcome", "started_at", "stream")
        return StoredRows(columns, [(*row, "orders", "complete", 0.0, 0) for row in rows], last)

    def newest_positions(self) -> NewestPositions:
        return NewestPositions(traces=10**9)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        raise NotImplementedError

    def trace(self, trace_id: str) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


@pytest.mark.parametrize(("n", "there"), [(20, 5_000), (20, 3), (0, 5), (1, 1)])
def test_the_newest_are_found_however_far_apart_positions_are(n: int, there: int) -> None:
    page = newest(SparseReader(there), Wanted(), n=n)
    assert [one["trace_id"] for one in page.traces] == list(range(there))[max(there - n, 0) :][:n]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", NOW_S - 90), ("2h", NOW_S - 7_200), ("1970-01-01", 0), ("1970-01-01T01:00+01:00", 0)],
)
def test_moments_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert instant_s(text, now_s=NOW_S) == expected


@pytest.mark.parametrize("text", ["", "2 hours", "-1h", "99999-01-01", "h"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no moment"):
        instant_s(text, now_s=NOW_S)


# feedback


@pytest.mark.parametrize(
    ("options", "kind", "value"),
    [
        (("--label", "AX-1"), "label", '"AX-1"'),
        (("--score", "0.5"), "score", "0.5"),
        (("--worked",), "outcome", "true"),
        (("--failed",), "outcome", "false"),
        (("--comment", "nice"), "comment", '"nice"'),
    ],
)
def test_feedback_of_every_kind_arrives(stored: Path, options: tuple[str, ...], kind: str, value: str) -> None:
    receipt = from_json("feedback", "add", trace(1).trace_id, *options, "--source", "human:ann")
    (row,) = feedback_in(stored)
    assert (row["kind"], row["value"], row["source"], row["trace_id"]) == (kind, value, "human:ann", trace(1).trace_id)
    assert receipt == {"feedback_id": row["feedback_id"], "trace_id": trace(1).trace_id}


def test_feedback_that_cannot_be_is_refused(stored: Path) -> None:
    trace_id = trace(1).trace_id
    assert invoke("feedback", "add", trace_id).exit_code == 2
    assert invoke("feedback", "add", trace_id, "--score", "1", "--label", "x").exit_code == 2
    assert "a number from 0 to 1" in failure("feedback", "add", trace_id, "--score", "2")
    assert "holds no trace" in failure("feedback", "add", trace(50).trace_id, "--label", "x")
    assert feedback_in(stored) == []


def test_feedback_without_a_store_makes_none(folder: Path) -> None:
    assert "holds no trace" in failure("feedback", "add", trace(1).trace_id, "--label", "x")
    assert not (folder / "data").exists()


def write_lines(path: Path, *lines: object) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def label(number: int, value: object = "AX-1", **more: object) -> dict[str, object]:
    return {"trace_id": trace(number).trace_id, "kind": "label", "value": value, **more}


def test_an_import_stores_every_line_once_however_often_it_is_repeated(stored: Path) -> None:
    lines = [label(n) for n in range(3)] + [label(0), label(0, 1, kind="score", source="shop")]
    file = write_lines(stored / "labels.jsonl", *lines, "")
    first = from_json("feedback", "import", file, "--source", "human:ann")
    assert first == {"stored": 4, "known": 1, "skipped": 0, "problems": []}
    assert from_json("feedback", "import", file, "--source", "human:ann")["known"] == 5
    rows = feedback_in(stored)
    assert len(rows) == 4
    assert {row["source"] for row in rows} == {"human:ann", "shop"}


def test_a_bad_line_stops_the_import_unless_it_may_be_skipped(stored: Path) -> None:
    bad = ["nonsense", "[]", {"kind": "label"}, label(1, 5), label(50), label(1, kind="praise"), label(1, more=1)]
    file = write_lines(stored / "labels.jsonl", label(0), *bad)
    result = invoke("feedback", "import", file)
    assert result.exit_code == 1
    assert "7 bad lines, nothing stored" in result.stderr
    assert "line 2: not JSON" in result.stderr
    assert "line 6: the store holds no trace" in result.stderr
    assert feedback_in(stored) == []
    found = from_json("feedback", "import", file, "--skip-invalid")
    assert (found["stored"], found["skipped"]) == (1, 7)
    assert [problem["line"] for problem in found["problems"]] == [2, 3, 4, 5, 6, 7, 8]
    (stored / "latin").write_bytes(b'{"trace_id": "\xff"}\n')
    assert "is not UTF-8" in failure("feedback", "import", "latin")
    assert invoke("feedback", "import", "missing.jsonl").exit_code == 2


def test_many_lines_share_their_commits(stored: Path) -> None:
    file = write_lines(stored / "labels.jsonl", *(label(n % 3, f"AX-{n}") for n in range(1_000)))
    began = time.monotonic()
    assert from_json("feedback", "import", file)["stored"] == 1_000
    assert time.monotonic() - began < 30
    assert len(feedback_in(stored)) == 1_000


def test_an_import_that_breaks_off_goes_on_when_it_is_repeated(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_lines(stored / "labels.jsonl", *(label(0, f"AX-{n}") for n in range(300)))
    add, calls = SqliteTraceStore.add_feedback, list[Feedback]()

    async def breaking(self: SqliteTraceStore, feedback: Feedback) -> None:
        calls.append(feedback)
        if len(calls) > 250:
            raise StoreError("the disk went away")
        await add(self, feedback)

    monkeypatch.setattr(SqliteTraceStore, "add_feedback", breaking)
    assert "the disk went away" in failure("feedback", "import", file)
    monkeypatch.undo()
    monkeypatch.chdir(stored)
    kept = len(feedback_in(stored))
    assert 200 <= kept < 300
    assert from_json("feedback", "import", file) == {"stored": 300 - kept, "known": kept, "skipped": 0, "problems": []}


# stats


def test_stats_are_those_of_the_analytics_route(stored: Path) -> None:
    found = from_json("stats")
    assert list(found["windows"]) == ["5m", "1h", "24h", "all"]
    overall = found["windows"]["all"]["overall"]
    assert (overall["requests"], overall["outcomes"]) == (6, {"complete": 5, "provider_error": 1})
    assert overall["tokens"]["input"] == 60
    assert [row["template_id"] for row in found["windows"]["all"]["templates"]] == ["orders", "last", "other"]
    table = ok("stats", "orders", "--window", "all").stdout
    assert "75.0%" in table
    assert "version orders 1" in table
    assert "model openai gpt-4" in table


def test_stats_say_how_many_requests_have_no_known_price(folder: Path) -> None:
    unpriced = [replace(trace(n, template_id="free" if n < 2 else "once"), cost_usd=None) for n in range(3)]
    keep(folder, *unpriced)
    cells = [line.split("│") for line in ok("stats", "--window", "all").stdout.splitlines() if "│" in line]
    costs = {row[1].strip(): row[-2].strip() for row in cells}
    assert costs["everything"] == "0.0010 + 3 unpriced"
    assert costs["template free"] == "unpriced (2 requests)"
    assert costs["template once"] == "unpriced (1 request)"
    assert costs["template last"] == "0.0010"


def test_stats_without_requests_say_so(folder: Path) -> None:
    result = ok("stats", "orders")
    assert result.stdout == ""
    assert "No request of template 'orders' in this window (24h)" in result.stderr
    assert invoke("stats", "--window", "2h").exit_code == 2


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() <= before
