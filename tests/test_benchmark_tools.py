"""The benchmark's own tools: what it calls a right answer, how it makes ratios, and its upstream."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.figures import GOALS, Measurements, Reading, as_json, ratio, summary, table
from benchmarks.installs import HERE
from benchmarks.load import is_right_answer, is_right_stream, write_bodies
from benchmarks.processes import BenchmarkError, Children, wait_until_up
from tests.e2e.processes import free_address

CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def a_port() -> int:
    """A free port that no connection of another test takes before somebody listens there."""
    return int(free_address().partition(":")[2])


def _readings(*rates: float) -> list[Reading]:
    return [Reading(per_s=rate, p50_ms=1000 / rate, cpu_us_per_request=1e6 / rate) for rate in rates]


def test_the_json_line_has_the_promised_names_and_null_for_what_was_left_out() -> None:
    figures = json.loads(as_json(Measurements()))
    kind = {"ours_rps": None, "vs_litellm": None, "vs_portkey": None, "vs_bare": None}
    assert figures == {
        "plain": kind,
        "stream": kind,
        "p50_vs_litellm": None,
        "workers2_cpu_ratio": None,
        "rss_mb": None,
        "rss_growth_mb": None,
        "start_vs_litellm": None,
    }


def test_a_ratio_compares_contenders_within_a_round_so_that_a_slow_minute_does_not_count() -> None:
    # The machine was ten times slower in the second round, for both.
    assert ratio([6000.0, 600.0, 6000.0], [10_000.0, 1000.0, 10_000.0]) == pytest.approx(0.6)
    assert ratio([6000.0, 600.0], [10_000.0, 10_000.0]) == pytest.approx((0.6 + 0.06) / 2)
    assert ratio([], [1.0]) is None


def test_ratios_are_ours_to_theirs() -> None:
    loads = {
        ("ours", "plain"): _readings(5000),
        ("litellm", "plain"): _readings(100),
        ("ours-2-workers", "plain"): _readings(4000),
        ("ours", "one"): _readings(4000),
        ("litellm", "one"): _readings(100),
    }
    seen = Measurements(loads=loads, starts_s={"ours": [0.5], "litellm": [5.0]}, rss_mb={"ours": 60.0}, growth_mb=1.0)
    figures = summary(seen)
    assert figures["plain"] == {"ours_rps": 5000, "vs_litellm": 50, "vs_portkey": None, "vs_bare": None}
    assert figures["p50_vs_litellm"] == pytest.approx(1 / 40)
    assert figures["workers2_cpu_ratio"] == pytest.approx(1.25)
    assert figures["start_vs_litellm"] == pytest.approx(0.1)
    printed = table(seen, ["ours", "litellm"])
    verdicts = {goal.words: line.split()[-1] for goal in GOALS for line in printed.splitlines() if goal.words in line}
    assert verdicts["plain calls, to LiteLLM"] == "met"
    assert verdicts["CPU a request, 2 workers to 1"] == "missed"
    assert verdicts["streams, to Portkey"] == "-"


def test_request_bodies_have_five_hundred_bytes_whatever_a_contender_needs_in_them(tmp_path: Path) -> None:
    for fields in ({"model": "m"}, {"model": "support", "variables": {"name": "Jordan"}}):
        for kind, path in write_bodies(tmp_path, "x", fields).items():
            body = path.read_bytes()
            assert len(body) == 500
            assert json.loads(body).get("stream", False) is (kind == "stream")


def test_a_child_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("short", [sys.executable, "-c", "print('no luck')"], core=CORE, directory=tmp_path)
        with pytest.raises(BenchmarkError, match="no luck"):
            wait_until_up(child, a_port(), "/")


def test_no_child_or_grandchild_outlives_the_benchmark(tmp_path: Path) -> None:
    port = a_port()
    script = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-m', 'http.server', '{port}', '--bind', '127.0.0.1'])\n"
        "time.sleep(600)\n"
    )
    pids: list[int] = []
    with Children(tmp_path) as children:
        child = children.start("parent", [sys.executable, "-c", script], core=CORE, directory=tmp_path)
        wait_until_up(child, port, "/")
        pids = child.pids
        assert len(pids) == 2
        assert child.rss_mb() > 10
    assert not any(_is_alive(pid) for pid in pids)


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("taskset") is None, reason="the benchmark needs Linux and a C compiler"
)


@pytest.fixture(scope="module")
def mock_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("mock")
    program = directory / "mock"
    with Children(directory) as children:
        command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "mock_upstream.c"]
        assert children.start("cc", command, core=CORE, directory=directory).popen.wait() == 0
        port = a_port()
        mock = children.start("mock", [program, str(port)], core=CORE, directory=directory)
        wait_until_up(mock, port, "/")
        yield port


def _post(port: int, body: dict[str, object]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse().read()
    connection.close()
    return answer


def test_the_mock_answers_a_completion_of_six_hundred_bytes(mock_port: int) -> None:
    answer = _post(mock_port, {"model": "m"})
    assert len(answer) == 600
    assert is_right_answer(answer)
    assert not is_right_answer(answer.replace(b'"stop"', b'"length"'))


def test_the_mock_streams_twenty_chunks_and_the_usage_only_when_asked(mock_port: int) -> None:
    plain = _post(mock_port, {"stream": True})
    counted = _post(mock_port, {"stream": True, "stream_options": {"include_usage": True}})
    assert (plain.count(b"data: {"), counted.count(b"data: {")) == (20, 21)
    assert is_right_stream(plain)
    assert is_right_stream(counted)


def test_a_stream_that_was_cut_or_lost_a_chunk_is_no_right_answer(mock_port: int) -> None:
    stream = _post(mock_port, {"stream": True})
    events = stream.split(b"\n\n")
    assert not is_right_stream(b"\n\n".join(events[:-2]))  # no [DONE]
    assert not is_right_stream(b"\n\n".join([*events[:5], *events[6:]]))
    assert not is_right_stream(b"")


def test_the_mock_reads_chunked_bodies_and_requests_that_come_in_pieces(mock_port: int) -> None:
    body = b'{"user": "bench-refused"}'
    chunked = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    following = b"POST / HTTP/1.1\r\nhost: x\r\nCONTENT-LENGTH: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", mock_port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + chunked:
            client.send(bytes([byte]))
        client.sendall(following)
        received = b""
        while b"chat.completion" not in received:
            received += client.recv(65536)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"HTTP/1.1 200" in received


def test_the_ingest_benchmark_runs_on_few_rows_and_ends_with_its_figures() -> None:
    command = [sys.executable, "benchmarks/ingest.py", "--rows", "200", "--json"]
    ended = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert set(figures) == {"rows", "rows_per_s", "peak_mb", "vs_polars", "vs_executemany"}
    assert figures["rows"] == 200
    assert all(value > 0 for value in figures.values())
    assert "0 failed writes, 0 rows dropped" in ended.stdout
