"""What the core asks of the outside. Each adapter keeps one of these promises; `tests/contracts` holds them to it."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.feedback import Feedback
from rs_gateway.domain.prompts import Origin, PromptTemplate, PromptText, PromptVersion
from rs_gateway.domain.publication import Change
from rs_gateway.domain.registered_template import RegisteredTemplate
from rs_gateway.domain.traces import Trace

T = TypeVar("T")
DONE = b"[DONE]"
"""In place of a chunk, at the end of a stream's last batch."""


class PushedBatches(AsyncIterator[Sequence[bytes]]):
    """Batches of a stream that can come by themselves: a task switch less for each than the iteration needs."""

    @abstractmethod
    async def pushed(self, take: Callable[[Sequence[bytes]], bool]) -> bool:
        """Hand every batch from the second one on to `take`, from within the event loop, until it returns False.

        Returns:
            Whether it was `take` that ended it; False: the stream is over. Raises what the iteration raises.
        """
        ...


class ChatProvider(Protocol):
    """One provider of chat completions. Raises ProviderError and its kinds, nothing else of its own."""

    async def complete(self, call: ProviderCall) -> bytes:
        """The body of an OpenAI `chat.completion` object, as it came; not yet checked."""
        ...

    def stream(self, call: ProviderCall) -> AbstractAsyncContextManager[AsyncIterator[Sequence[bytes]]]:
        """Batches of `chat.completion.chunk` objects (JSON, without SSE framing), as they arrive.

        The iteration ends normally only when the provider said that the stream is done; the last batch may say so
        itself, with DONE (that very object) as its last item. A stream that breaks off raises ProviderCutError. Leaving
        the context cancels the upstream call. The iterator may be PushedBatches.
        """
        ...

    async def aclose(self) -> None:
        """Close pooled connections."""
        ...


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a trace store is doing.

    Attributes:
        queued: rows waiting for their commit; dropped: rows lost since the start because the queue was full.
        error: what the last failed write said; None when the last write succeeded.
    """

    ok: bool
    queued: int
    dropped: int
    error: str | None


class TraceStore(Protocol):
    """Where the gateway writes. One writer a process; several processes may share a store."""

    def append(self, trace: Trace) -> None:
        """Queue a trace. Never waits for the disk and never raises; what cannot be queued is counted as dropped."""
        ...

    async def committed(self, trace: Trace) -> bool:
        """Queue a trace and wait for its group commit (`durability: sync`). False: it was not stored."""
        ...

    async def add_feedback(self, feedback: Feedback) -> None:
        """Store and commit. Raises TraceNotFoundError, StoreError."""
        ...

    def health(self) -> StoreHealth:
        """Current state; does not touch the disk."""
        ...

    def close(self) -> None:
        """Write out what is queued, then close."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRows:
    """A page of rows, in commit order.

    Attributes:
        columns: column names; rows: tuples in that order.
        last_sequence: position of the last row: pass it as `after` to get the next page; unchanged when `rows` is
            empty. It is the store's own: where numbers are drawn in the order of commits it is the last row's `seq`,
            where they are not it is something else that follows that order, and a later page may hold smaller `seq`.
    """

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]
    last_sequence: int


@dataclass(frozen=True, slots=True)
class NewestPositions:
    """The highest positions that a store has given to a trace and to feedback, to rows deleted since too; or 0."""

    traces: int = 0
    feedback: int = 0


class TraceReader(Protocol):
    """Where the pipelines read. Never blocks the writer and never sees a row twice or not at all."""

    def traces(self, *, after: int, limit: int) -> StoredRows:
        """Traces joined with their payloads, whose position is above `after`.

        No row that commits later ever gets a position at or below one that was given here.
        """
        ...

    def feedback(self, *, after: int, limit: int) -> StoredRows:
        """Feedback, in the same way."""
        ...

    def newest_positions(self) -> NewestPositions:
        """How far the store has come. It never falls, so that a store restored from a backup can be told."""
        ...

    def trace(self, trace_id: str) -> Mapping[str, object] | None:
        """One trace by column name, as `traces` has it; None when the store does not hold it."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class ArrowStream(Protocol):
    """A stream of record batches behind Arrow's PyCapsule interface; Polars and others read it without copying."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """See Arrow's PyCapsule interface."""
        ...


@dataclass(frozen=True, slots=True)
class StoredColumns(Generic[T]):
    """A page of rows in commit order as columns: the columns of StoredRows, in chunks that follow each other.

    Attributes:
        last_sequence: as in StoredRows; a page may be empty and more follow it. No more follows where it stays.
    """

    chunks: list[T]
    last_sequence: int


@runtime_checkable
class ColumnReader(Protocol):
    """A TraceReader that can hand over columns too, where the machine has what it takes. For large pages, and fast."""

    def columns(
        self, table: Literal["traces", "feedback"], *, after: int, limit: int, load: Callable[[ArrowStream], T]
    ) -> StoredColumns[T] | None:
        """A page of what `traces` or `feedback` read. A column has the type of its cells, or any if all are null.

        Args:
            load: makes a chunk of a stream, which it has to read to its end.

        Returns:
            None where only rows can be read, now or ever.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredInput:
    """What was asked in a trace, as far as it was kept; `variables` and `request_messages` are JSON text."""

    trace_id: str
    template_id: str | None
    variables: str | None
    request_messages: str | None


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows are gone; a trace's payload went with it."""

    traces: int
    feedback: int


class TraceEraser(Protocol):
    """Takes traces out of a store for good, with their payloads and feedback. Figures stay: they name nobody."""

    def of_user(self, end_user: str) -> Sequence[StoredInput]:
        """The traces whose `user` was exactly this. Raises StoreError."""
        ...

    def of_ids(self, trace_ids: Collection[str]) -> Sequence[StoredInput]:
        """Those of these traces that are there. Raises StoreError."""
        ...

    def n_feedback(self, trace_ids: Collection[str]) -> int:
        """How much was said about them. Raises StoreError."""
        ...

    def erase(self, trace_ids: Collection[str]) -> Erased:
        """Delete them a few at a time, so that no commit of the gateway waits long. Raises StoreError.

        When it returns, none of their bytes is left in the store. Interrupted, it goes on when it is called again.
        """
        ...


class ScoreReader(Protocol):
    """Scores that were given as feedback, for the router."""

    def newest_score(self, *, keep: int) -> int:
        """The sequence number after which at most `keep` scores follow; 0 when there are no more than that."""
        ...

    def scores(self, *, after: int, limit: int) -> StoredRows:
        """Rows of (sequence number, template id, combination id, score in [0, 1])."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryState:
    """All that the registry holds.

    Attributes:
        problems: template id -> why its files cannot be used. A template with a problem that was loaded well before
            stays in `templates` as it was.
    """

    fingerprint: str
    templates: Mapping[str, RegisteredTemplate]
    problems: Mapping[str, str]


class PromptRegistry(Protocol):
    """Templates and versions. Versions are immutable; every change is atomic and recorded."""

    def fingerprint(self) -> str:
        """Changes whenever anything in the registry does, edits by hand included. Cheap."""
        ...

    def load(self, previous: RegistryState | None = None) -> RegistryState:
        """Read everything; keep `previous`'s picture of a template that is invalid now."""
        ...

    def get(self, template_id: str) -> RegisteredTemplate:
        """One template. Raises RegistryError when unknown or invalid."""
        ...

    def register(self, template: PromptTemplate, text: PromptText, *, origin: Origin) -> RegisteredTemplate:
        """Make a template known, version 1 live. Raises RegistryError when the id is taken."""
        ...

    def add_version(self, template_id: str, text: PromptText, *, model: str | None, origin: Origin) -> PromptVersion:
        """Add a draft; nothing is served until `make_live`."""
        ...

    def add_drafts(self, template: PromptTemplate, versions: Sequence[PromptVersion]) -> Mapping[int, int]:
        """Add versions that nobody serves; all of them or none, whatever happens meanwhile.

        A template that is unknown here becomes known, its versions with the numbers that they have, and nothing live.
        Of a known one, facts and live versions stay, and the versions that it lacks follow with the next numbers.

        Returns:
            number that a version has in `versions` -> its number here.

        Raises:
            RegistryError, TemplateInvalidError: a version does not fit the template; nothing was added.
        """
        ...

    def make_live(self, template_id: str, change: Change) -> RegisteredTemplate:
        """Serve `change.version` for `change.model`.

        Raises:
            VersionConflictError: another version than `change.previous` is live by now.
        """
        ...

    def set_weight(self, template_id: str, change: Change) -> RegisteredTemplate:
        """Give `change.combination_id` the weight `change.weight`, over the configuration's. Raises RegistryError."""
        ...
