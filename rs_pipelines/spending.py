"""What model calls cost: booked before they are made, paid for after, and how much of it is allowed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Booking:
    """What a call may cost, booked before it is made; an answer's real cost takes its place."""

    tokens: int = 0
    usd: float = 0.0


NOTHING = Booking()


@dataclass(frozen=True, slots=True)
class Spending:
    """What was paid for: calls sent to the provider (each retry is one) and the tokens of their answers.

    Attributes:
        booked_tokens, usd: with the bookings of calls that are under way or were never accounted for; `usd` is 0 where
            no price is known.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    booked_tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a piece of work may cost at most; None is no limit.

    Attributes:
        tokens: of requests and answers together; usd: US dollars.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None

    @property
    def only_calls(self) -> bool:
        """Whether tokens and dollars are unlimited."""
        return self.tokens is None and self.usd is None
