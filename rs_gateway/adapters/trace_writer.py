"""One writer thread behind a bounded queue: group commit, retries, and verdicts for those who wait.

It knows no database: what it needs of one is `TraceDatabase`.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import structlog

from rs_gateway.adapters.queued_record import QueuedRecord, Verdict, deliver_verdicts
from rs_gateway.adapters.trace_database import TraceDatabase
from rs_gateway.adapters.trace_rows import ENCODING_ERRORS, Record, not_storable, rows_of
from rs_gateway.domain.errors import NoRoomError, StoreError, TraceNotFoundError
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.ports import StoreHealth
from rs_gateway.domain.traces import StoreMode, Trace

log = structlog.get_logger()

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.05, 2.0
_IDLE_CHECK_S = 1.0
_UPKEEP_RETRY_S = 60.0
_REOPEN_PAUSE_S = 1.0
_FOREIGN_FLUSH_S = 0.25
"""How long feedback may wait, at least, for its trace to come out of another process's queue."""

Prepare: TypeAlias = Callable[[Record], Record]
"""What is done to a record before any of it is encoded, such as redaction."""


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How much may wait, and for how long.

    Attributes:
        queue_rows, queue_bytes: bounds on what is queued; bytes are estimated from the length of its texts.
        flush_interval_s: how long a record that nobody waits for may wait for others to share its commit.
        max_batch: records in one commit.
        write_timeout_s: how long one write waits for other processes, at most, before it fails.
        close_timeout_s: how long `close` goes on trying when the database fails.
    """

    queue_rows: int = 10_000
    queue_bytes: int = 256 * 2**20
    flush_interval_s: float = 0.05
    max_batch: int = 500
    write_timeout_s: float = 2.0
    close_timeout_s: float = 5.0


class TraceWriter:
    """The owner of a database's queue and thread. Any thread and event loop may put records into it."""

    def __init__(
        self, database: TraceDatabase, *, name: str, limits: WriterLimits, prepare: Prepare | None = None
    ) -> None:
        """Open the database and start the thread, called `name`. Raises StoreError: it cannot be opened.

        A full disk is no reason not to start: what is put waits until there is room, and `health` says so.

        Args:
            prepare: called in the thread, once a record. A trace for which it fails is stored without its payload and
                its end user, and such feedback is refused: what it should have taken out never reaches the disk.
        """
        self._database, self._limits, self._prepare = database, limits, prepare
        self._foreign_flush_s = max(4 * limits.flush_interval_s, _FOREIGN_FLUSH_S)

        self._condition = threading.Condition(threading.Lock())
        self._queue: deque[QueuedRecord] = deque()
        self._urgent = False
        self._n_rows, self._n_bytes, self._dropped = 0, 0, 0
        self._error: str | None = None
        self._closed = False
        self._give_up_at: float | None = None
        self._upkeep_at = time.monotonic()
        self._upkeep_failing = False
        self._parked: list[QueuedRecord] = []  # feedback whose trace may come yet; the writer's own

        self._opened = True
        try:
            self._database.open()
        except NoRoomError as error:
            self._opened, self._error = False, str(error)
            log.error("trace_store_failing", error=str(error), queued=0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=False)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue a record. Never waits for the database and never raises; a trace that finds no room is counted."""
        self._put(QueuedRecord(record))

    async def commit(self, record: Record) -> Verdict:
        """Queue a record and wait until it is stored, refused, or a write failed.

        While writes fail, a trace is queued without a wait: its answer must not come later for that.
        """
        failing = self._error
        if failing is not None and isinstance(record, Trace):
            self.put(record)
            return _cannot_be_written(failing)
        waiter: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        if not self._put(QueuedRecord(record, waiter)):
            return StoreError("The trace store is closed, or its queue is full: see `/health/storage`, and try again.")
        return await waiter

    def health(self) -> StoreHealth:
        """See TraceStore."""
        with self._condition:
            return StoreHealth(self._error is None, self._n_rows, self._dropped, self._error)

    def close(self) -> None:
        """See TraceStore. With a failing database it gives up after `close_timeout_s` and counts what is lost."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join(self._limits.close_timeout_s + self._limits.write_timeout_s + 1.0)
        if self._thread.is_alive():
            log.error("trace_store_stuck", queued=self.health().queued)

    def _put(self, item: QueuedRecord) -> bool:
        with self._condition:
            full = self._n_rows >= self._limits.queue_rows or self._n_bytes + item.n_bytes > self._limits.queue_bytes
            if full or self._closed:
                # Feedback is refused to its sender's face; only traces can get lost.
                self._dropped += isinstance(item.record, Trace)
                return False
            self._n_rows += 1
            self._n_bytes += item.n_bytes
            self._queue.append(item)
            self._urgent = self._urgent or item.awaited
            # Waking the writer for every row would cost a thread switch a request.
            if self._urgent or len(self._queue) in (1, self._limits.max_batch):
                self._condition.notify()
        return True

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                if batch:
                    self._store(batch)
                if self._upkeep_due():
                    self._maintain()
        except Exception as error:
            # A fault of ours: without its thread the store can only say so, and count.
            log.exception("trace_store_writer_died")
            self._abandon(f"The writer thread died: {error!r}. Restart the gateway.")
        finally:
            self._database.close()

    def _take(self) -> list[QueuedRecord] | None:
        """Wait for rows, linger for more to share their commit, and take a batch.

        Returns:
            None when it is time to stop; nothing when there is no row yet and upkeep is due.
        """
        with self._condition:
            while not self._queue and not self._due():
                if self._stopping() and not self._parked:
                    return None
                if self._upkeep_due():
                    return []
                self._condition.wait(self._idle_s())
            flush_at = time.monotonic() + self._limits.flush_interval_s
            while not (self._urgent or self._stopping() or self._due() or len(self._queue) >= self._limits.max_batch):
                remaining_s = flush_at - time.monotonic()
                if remaining_s <= 0 or not self._condition.wait(remaining_s):
                    break
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._limits.max_batch))]
            self._urgent = bool(self._queue)  # a backlog does not linger
        due = self._due()
        self._parked = [item for item in self._parked if item not in due]
        return batch + due

    def _due(self) -> list[QueuedRecord]:
        now = time.monotonic()
        return [item for item in self._parked if item.retry_at <= now]

    def _idle_s(self) -> float:
        # An interpreter that ends without `close` sends no signal to this thread, so it looks now and then.
        if not self._parked:
            return _IDLE_CHECK_S
        return max(min(item.retry_at for item in self._parked) - time.monotonic(), 0.001)

    def _upkeep_due(self) -> bool:
        return time.monotonic() >= self._upkeep_at and not self._stopping()

    def _maintain(self) -> None:
        """One step of upkeep; what goes wrong with it is logged once and hinders nobody."""
        if not self._opened and not self._open():
            self._upkeep_at = time.monotonic() + _REOPEN_PAUSE_S
            return
        try:
            pause_s = self._database.maintain()
        except StoreError as error:
            if not self._upkeep_failing:
                log.warning("trace_store_upkeep_failed", error=str(error))
            pause_s, self._upkeep_failing = _UPKEEP_RETRY_S, True
        else:
            self._upkeep_failing = False
        self._upkeep_at = time.monotonic() + pause_s

    def _open(self) -> bool:
        """Whether there is room by now."""
        try:
            self._database.open()
        except StoreError as error:
            with self._condition:
                self._error = str(error)
            return False
        with self._condition:
            log.info("trace_store_recovered", queued=self._n_rows)
            self._opened, self._error = True, None
        return True

    def _stopping(self) -> bool:
        return self._closed or not threading.main_thread().is_alive()

    def _store(self, batch: list[QueuedRecord]) -> None:
        """Write a batch, again and again until it is stored or, on closing, given up."""
        for item in batch:
            if item.rows is None and item.verdict is None:
                self._encode(item)
        backoff_s = _FIRST_BACKOFF_S
        while batch:
            try:
                self._database.write(batch)
            except StoreError as error:
                batch = self._keep(batch, error)
            else:
                return self._settle(batch)
            if self._out_of_time():
                return self._abandon(self._error, batch)
            self._pause(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
        return None

    def _encode(self, item: QueuedRecord) -> None:
        """Fill the item's rows, or its verdict."""
        record = item.record
        if self._prepare is not None and not (isinstance(record, Trace) and record.store is StoreMode.NONE):
            try:
                record = self._prepare(record)
            except Exception as error:  # noqa: BLE001 code of the operator's own may raise anything
                # Its message may quote the very text that was to be taken out.
                log.error("record_not_redacted", trace_id=record.trace_id, error=type(error).__name__)
                if isinstance(record, Feedback):
                    item.verdict = StoreError(
                        f"This feedback was not stored, since it could not be redacted ({type(error).__name__}): "
                        "the gateway's log says more."
                    )
                    return
                record = replace(record, payload=None, end_user=None)
        try:
            item.rows = rows_of(record)
        except ENCODING_ERRORS as error:
            item.verdict = not_storable(record, error)

    def _settle(self, batch: Iterable[QueuedRecord]) -> None:
        """Answer for a batch that was committed, and put aside feedback whose trace is not there yet."""
        now = time.monotonic()
        settled: list[QueuedRecord] = []
        for item in batch:
            if item.missed and item.refuse_after is None:
                item.refuse_after = now + self._foreign_flush_s
            if item.missed and item.refuse_after is not None and now < item.refuse_after:
                item.retry_at = now + self._limits.flush_interval_s
                self._parked.append(item)
                continue
            if item.missed:
                item.verdict = TraceNotFoundError(item.record.trace_id)
            settled.append(item)
        unstorable = [item for item in settled if isinstance(item.record, Trace) and item.verdict is not None]
        for item in unstorable:
            log.error("trace_not_storable", trace_id=item.record.trace_id, error=str(item.verdict))
        with self._condition:
            if self._error is not None:
                log.info("trace_store_recovered", queued=self._n_rows)
            self._opened, self._error = True, None
            self._dropped += len(unstorable)
            self._release(settled)
        deliver_verdicts(settled)

    def _keep(self, batch: list[QueuedRecord], error: Exception) -> list[QueuedRecord]:
        """Note a failed write, tell everybody who waits, and return the batch without the feedback that was told."""
        with self._condition:
            if self._error is None:
                log.error("trace_store_failing", error=str(error), queued=self._n_rows)
            self._error = str(error)
            told = [item for item in (*batch, *self._queue, *self._parked) if item.awaited]
            withdrawn = {item for item in told if isinstance(item.record, Feedback)}
            self._queue = deque(item for item in self._queue if item not in withdrawn)
            self._parked.clear()
            self._urgent = False
            self._release(withdrawn)
        # Whoever could not be encoded keeps that verdict: it will not be stored when the disk is back either.
        storable = [item for item in told if item.verdict is None]
        for item in storable:
            item.verdict = _cannot_be_written(error)
        deliver_verdicts(told)
        for item in told:
            item.waiter = None
        for item in storable:
            item.verdict = None
        return [item for item in batch if item not in withdrawn]

    def _abandon(self, error: str | None, batch: Iterable[QueuedRecord] = ()) -> None:
        """Give up: everything that is still queued is lost, and counted."""
        with self._condition:
            self._closed = True
            self._error = error
            lost = [*batch, *self._queue, *self._parked]
            self._queue.clear()
            self._parked.clear()
            self._dropped += sum(isinstance(item.record, Trace) for item in lost)
            self._n_rows, self._n_bytes = 0, 0
        for item in lost:
            item.verdict = StoreError(f"The trace store is closed: {error}")
        deliver_verdicts(lost)
        if lost:
            log.error("trace_store_gave_up", lost=len(lost), error=error)

    def _release(self, items: Iterable[QueuedRecord]) -> None:
        for item in items:
            self._n_rows -= 1
            self._n_bytes -= item.n_bytes

    def _out_of_time(self) -> bool:
        if not self._stopping():
            return False
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._limits.close_timeout_s
        return time.monotonic() >= self._give_up_at

    def _pause(self, seconds: float) -> None:
        if self._stopping():
            time.sleep(min(seconds, 2 * _FIRST_BACKOFF_S))
            return
        with self._condition:
            self._condition.wait_for(lambda: self._closed, seconds)


def _cannot_be_written(error: object) -> StoreError:
    return StoreError(f"The trace store cannot be written ({error}): try again later.")
