"""A trace store to ingest from: filled with traces of about 2 KB, and written to as fast as one process can.

python -m benchmarks.trace_store fill FILE ROWS       append so many traces; each has a text of its own
python -m benchmarks.trace_store write FILE           append traces until stdin closes; then one JSON line
"""

import json
import random
import sqlite3
import string
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rs_gateway.adapters.sqlite_traces import SqliteTraceStore
from rs_gateway.adapters.trace_rows import WRITTEN_PAYLOAD_COLUMNS, WRITTEN_TRACE_COLUMNS, rows_of
from rs_gateway.adapters.trace_writer import WriterLimits
from rs_gateway.domain.routing import Decision
from rs_gateway.domain.traces import Attempt, Outcome, Trace, TracePayload, Usage, UsageSource
from rs_gateway.trace_ids import TraceIds

FIRST_DAY_S = 1_767_225_600.0
"""2026-01-01, UTC."""
_SECONDS_A_TRACE = 0.6
_N_TEMPLATES = 20
_INSTRUCTION_CHARACTERS, _QUESTION_CHARACTERS, _ANSWER_CHARACTERS = 500, 300, 450
_SOUP_CHARACTERS = 2_000_000
_BATCH_ROWS = 10_000
_QUEUE_ROWS = 10_000


class TraceMaker:
    """Makes traces of 20 templates, each with its instruction; every question and answer is another one.

    The same seed makes the same texts.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(seed)
        words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(20_000)]
        self._soup = " ".join(rng.choices(words, k=_SOUP_CHARACTERS // 6))[:_SOUP_CHARACTERS]
        self._rng = rng
        self._instructions = [self._text(_INSTRUCTION_CHARACTERS) for _ in range(_N_TEMPLATES)]

    def trace(self, number: int, *, trace_id: str, started_at: float) -> Trace:
        """The trace with this number."""
        question, answer = self._text(_QUESTION_CHARACTERS), self._text(_ANSWER_CHARACTERS)
        template = f"template-{number % _N_TEMPLATES:02d}"
        user = {"role": "user", "content": question}
        system = {"role": "system", "content": self._instructions[number % _N_TEMPLATES]}
        combination = f"{template}@small"
        return Trace(
            trace_id,
            started_at,
            template,
            Outcome.COMPLETE if number % 50 else Outcome.PROVIDER_ERROR,
            stream=number % 3 == 0,
            latency_s=0.2 + number % 97 / 100,
            usage=Usage(130, 120, UsageSource.PROVIDER),
            template_id=template,
            version=1 + number % 3,
            combination_id=combination,
            provider="local",
            model="small",
            response_model="small-0613",
            finish_reason="stop",
            cost_usd=0.0001,
            end_user=f"user-{number % 5_000}",
            key_id="key-1",
            decision=Decision(combination, (), "weighted", {combination: 1.0}, "the only one"),
            attempts=(Attempt(combination, "local", "small", 1, None, 200, 0.2),),
            payload=TracePayload(
                request_messages=(user,),
                variables={"order": str(number)},
                parameters={"temperature": 0, "max_tokens": 200},
                rendered_messages=(system, user),
                response={"role": "assistant", "content": answer},
            ),
        )

    def _text(self, length: int) -> str:
        begin = self._rng.randrange(_SOUP_CHARACTERS - length)
        return self._soup[begin : begin + length]


def fill(path: Path, rows: int) -> None:
    """Append so many traces, as the gateway stores them, in batches that are not synced to the disk."""
    SqliteTraceStore(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        (begin,) = connection.execute("SELECT coalesce(max(seq), 0) FROM traces").fetchone()
        maker = TraceMaker(begin)
        for first in range(begin, begin + rows, _BATCH_ROWS):
            connection.execute("BEGIN")
            for number in range(first, min(first + _BATCH_ROWS, begin + rows)):
                trace = maker.trace(
                    number, trace_id=f"{number:026d}", started_at=FIRST_DAY_S + number * _SECONDS_A_TRACE
                )
                row, payload = rows_of(trace)
                assert row is not None and payload is not None
                connection.execute(_INSERT_TRACE, row)
                connection.execute(_INSERT_PAYLOAD, payload)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def write_until_told(path: Path) -> dict[str, float]:
    """Append as fast as the store takes it until stdin closes: rows, seconds, failed writes, dropped rows."""
    told, failed, written = threading.Event(), 0, 0
    threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
    maker, ids, began = TraceMaker(-1), TraceIds(), time.monotonic()
    some = [maker.trace(number, trace_id="", started_at=0) for number in range(1_000)]
    store = SqliteTraceStore(path, limits=WriterLimits(queue_rows=_QUEUE_ROWS))
    try:
        while not told.is_set():
            for trace in some:
                store.append(_renewed(trace, ids.new()))
            written += len(some)
            while (health := store.health()).queued > _QUEUE_ROWS - 2 * len(some):
                failed += not health.ok
                time.sleep(0.001)
    finally:
        store.close()
    dropped = store.health().dropped
    return {"rows": written, "seconds": time.monotonic() - began, "failed": failed, "dropped": dropped}


def _renewed(trace: Trace, trace_id: str) -> Trace:
    return replace(trace, trace_id=trace_id, started_at=time.time())


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_INSERT_TRACE = _insert("traces", WRITTEN_TRACE_COLUMNS)
_INSERT_PAYLOAD = _insert("trace_payloads", WRITTEN_PAYLOAD_COLUMNS)


def main(arguments: list[str]) -> int:
    """See above."""
    match arguments:
        case ["fill", path, rows]:
            fill(Path(path), int(rows))
        case ["write", path]:
            print(json.dumps(write_until_told(Path(path))))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
