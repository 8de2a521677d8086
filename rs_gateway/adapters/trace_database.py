"""The promise of a database that traces are written to."""

from collections.abc import Sequence
from typing import Protocol

from rs_gateway.adapters.queued_record import QueuedRecord


class TraceDatabase(Protocol):
    """What the writer needs of a database. After `open`, only the writer's thread uses it."""

    def open(self) -> None:
        """Connect, and create or migrate the tables. Raises StoreError: it cannot be used."""
        ...

    def write(self, batch: Sequence[QueuedRecord]) -> None:
        """Store a batch in one transaction, on the disk before it returns when any of it is `awaited`.

        Records without `rows` are passed over and rows that are stored already are left alone. Feedback without its
        trace is not stored but marked `missed`. A row that can never be stored loses its `rows` and gets a `verdict`.
        Every trace that is stored now, and was not before, is counted in the live figures of the same transaction.

        Raises:
            StoreError: nothing of it was stored; the same batch, or more, comes again after a pause.
        """
        ...

    def maintain(self) -> float:
        """One step of a few milliseconds of what time makes necessary: expiry, old figures.

        Returns:
            How many seconds until the next step is due; 0.0 when more is to be done.

        Raises:
            StoreError: nothing was changed; the next step tries again.
        """
        ...

    def close(self) -> None:
        """Release the connection. Raises nothing; a later `write` opens it again."""
        ...
