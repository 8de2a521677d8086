"""A trace store whose rows wait in the queue of a writer thread, whatever they are written to."""

from rs_gateway.adapters.trace_writer import TraceWriter
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.ports import StoreHealth
from rs_gateway.domain.traces import Trace


class QueuedTraces:
    """The promises of TraceStore, kept by the writer."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer

    def append(self, trace: Trace) -> None:
        """See TraceStore. The trace is encoded later, in the writer thread: do not change its messages afterwards."""
        self._writer.put(trace)

    async def committed(self, trace: Trace) -> bool:
        """See TraceStore. False after a failed write too, though the trace stays queued and may be stored later.

        A trace with `StoreMode.NONE` is committed when the figures count it.
        """
        return await self._writer.commit(trace) is None

    async def add_feedback(self, feedback: Feedback) -> None:
        """See TraceStore. The same `feedback_id` twice is stored once."""
        verdict = await self._writer.commit(feedback)
        if verdict is not None:
            raise verdict

    def health(self) -> StoreHealth:
        """See TraceStore."""
        return self._writer.health()

    def close(self) -> None:
        """See TraceStore. Where nothing can be written it gives up after `close_timeout_s` and counts what is lost."""
        self._writer.close()
