"""What the access store promises: client keys, and what they have used, shared by every process of one gateway."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rs_gateway.domain.access import BudgetPeriod, ClientKey

IN_FLIGHT_LEASE_S = 10.0
"""Requests in flight of a worker that has not been heard of for so long do not count: it was killed."""


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What a key used in one period. `cost_usd` lacks the `unpriced_requests`."""

    requests: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced_requests: int = 0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is stored.

    Attributes:
        usage: of the current day, the current month, and of all time; a period without a row is absent.
        requests_full_at_s, tokens_full_at_s: `TokenBucket.full_at_s` of its two buckets, for all workers together.
    """

    key: ClientKey
    secret_hash: bytes
    usage: Mapping[BudgetPeriod, KeyUsage]
    requests_full_at_s: float = 0.0
    tokens_full_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """What a key used since the last batch.

    Attributes:
        requests_debt_s, tokens_debt_s: by how much its buckets are full later, in seconds.
    """

    usage: KeyUsage
    requests_debt_s: float = 0.0
    tokens_debt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """What all keys used in one worker since its last batch.

    Attributes:
        number: counts up from 1 within a worker; a number that was stored before is not counted again.
        at_s: decides on the day and month that it counts for, in seconds since the epoch.
    """

    number: int
    at_s: float
    deltas: Mapping[str, UsageDelta]


@dataclass(frozen=True, slots=True)
class AccessPicture:
    """What a worker learns.

    Attributes:
        records: every key when `whole`, otherwise those that changed or were used since `mark`.
        in_flight_elsewhere: key id -> requests in flight in other workers; complete, and without zeros.
        mark: pass it on to get only what changed after this.
    """

    records: Sequence[KeyRecord]
    whole: bool
    in_flight_elsewhere: Mapping[str, int]
    mark: tuple[int, int]


class AccessStore(Protocol):
    """Client keys and their accounts. Blocks; any thread may call it. Every method raises StoreError on a failure."""

    def create(self, key: ClientKey, *, secret_hash: bytes) -> None:
        """Add a key. Raises InvalidRequestError: its id is taken."""
        ...

    def update(self, key_id: str, change: Callable[[ClientKey], ClientKey]) -> ClientKey:
        """Replace a key by `change` of it, with nobody in between. An error that `change` raises passes through.

        A changed rate starts with a full bucket; what the key has spent stays.

        Raises KeyNotFoundError.
        """
        ...

    def records(self, *, now_s: float) -> Sequence[KeyRecord]:
        """Every key there ever was, oldest first."""
        ...

    def exchange(
        self,
        worker_id: str,
        *,
        batch: UsageBatch | None,
        in_flight: Mapping[str, int] | None,
        now_s: float,
        since: tuple[int, int] | None,
    ) -> AccessPicture:
        """Store what a worker counted, and tell it what it does not know. All of it is stored, or nothing.

        Args:
            in_flight: its requests in flight by key id, as of now; None leaves what it said before.
            since: `mark` of the last picture; None asks for all.
        """
        ...

    def close(self) -> None:
        """Release the store."""
        ...
