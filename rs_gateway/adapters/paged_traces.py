"""The reading side of a trace store, whatever its rows lie in: pages in the order of commits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rs_gateway.adapters.trace_rows import FEEDBACK_COLUMNS, SCORE_COLUMNS, TRACE_COLUMNS, Row
from rs_gateway.domain.ports import StoredRows

Query = TypeVar("Query")
Query_contra = TypeVar("Query_contra", contravariant=True)


class RowSource(Protocol[Query_contra]):
    """A database that is only read."""

    def rows(self, query: Query_contra, parameters: Sequence[object], /) -> list[Row]:
        """All rows of a query; none where there are no tables. Raises SchemaTooNewError, StoreError."""
        ...

    def close(self) -> None:
        """Release the connection; a later query opens it again."""
        ...


@dataclass(frozen=True, slots=True)
class TraceQueries(Generic[Query]):
    """The questions in the words of one database.

    Attributes:
        traces, feedback, scores: a page of rows with their columns of `trace_rows`, the sequence number first; their
            parameters are the number that it begins after and how many rows it has at the most.
        trace: one trace, by its id.
        newest_score: the sequence number of the newest score but n.
    """

    traces: Query
    feedback: Query
    scores: Query
    trace: Query
    newest_score: Query


class PagedTraces(Generic[Query]):
    """The promises of TraceReader and ScoreReader that are the same for every database."""

    def __init__(self, source: RowSource[Query], queries: TraceQueries[Query]) -> None:
        self._source, self._queries = source, queries

    def traces(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        return self._page(self._queries.traces, TRACE_COLUMNS, after=after, limit=limit)

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        """See TraceReader. Raises SchemaTooNewError, StoreError."""
        return self._page(self._queries.feedback, FEEDBACK_COLUMNS, after=after, limit=limit)

    def scores(self, *, after: int, limit: int) -> StoredRows:
        """Scores given as feedback, with whom they are about: `SCORE_COLUMNS`, in commit order of the feedback.

        Scores of traces that are gone, or that no combination answered, are passed over.

        Raises:
            SchemaTooNewError, StoreError: the store cannot be read.
        """
        return self._page(self._queries.scores, SCORE_COLUMNS, after=after, limit=limit)

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        """One trace by column name, as `traces` has it (decision and attempts are JSON text); None when unknown.

        Raises:
            SchemaTooNewError, StoreError: the store cannot be read.
        """
        rows = self._source.rows(self._queries.trace, (trace_id,))
        return dict(zip(TRACE_COLUMNS, rows[0], strict=True)) if rows else None

    def newest_score(self, *, keep: int) -> int:
        """See ScoreReader. Raises SchemaTooNewError, StoreError."""
        rows = self._source.rows(self._queries.newest_score, (keep,))
        return integer(rows[0][0]) if rows else 0

    def close(self) -> None:
        """See TraceReader."""
        self._source.close()

    def _page(self, query: Query, columns: tuple[str, ...], *, after: int, limit: int) -> StoredRows:
        rows = self._source.rows(query, (after, limit))
        return StoredRows(columns, rows, integer(rows[-1][0]) if rows else after)


def integer(cell: object) -> int:
    """A cell that holds a whole number, such as a sequence number."""
    assert isinstance(cell, int)
    return cell
