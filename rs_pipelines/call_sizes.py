"""How many tokens a model call can take at the most, before it is made, and how many such calls took in fact."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from rs_gateway.domain.chat import JsonObject, Message

_TOKENS_PER_CALL = 64
"""Of chat templates: turn markers, and the system prompt that some models put in by themselves."""
_TOKENS_PER_ATTACHMENT = 50_000
"""Of an image or a file that is named by a URL; the dearest image of a current model takes just below that."""
_SENT_WITH_INPUT = ("tools", "functions", "response_format", "tool_choice")


@dataclass(frozen=True, slots=True)
class CallSize:
    """Tokens of one call; `output_tokens` None where nothing limits its answer."""

    input_tokens: int
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class MeasuredCalls:
    """What the calls of one model took.

    Attributes:
        n: how many the provider counted; bound_tokens: what their requests could have taken at the most.
        largest_excess: the most that a request took, as a multiple of its bound; largest_output: of one answer.
        answered, failed: calls that were sent, by how they ended; lost: of the failed ones, those that may be billed.
    """

    n: int = 0
    bound_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    largest_excess: float = 0.0
    largest_output: int = 0
    answered: int = 0
    failed: int = 0
    lost: int = 0

    def with_call(self, bound: CallSize, input_tokens: int, output_tokens: int) -> "MeasuredCalls":
        """The same with one more that was counted."""
        return replace(
            self,
            n=self.n + 1,
            bound_tokens=self.bound_tokens + bound.input_tokens,
            input_tokens=self.input_tokens + input_tokens,
            output_tokens=self.output_tokens + output_tokens,
            largest_excess=max(self.largest_excess, input_tokens / bound.input_tokens),
            largest_output=max(self.largest_output, output_tokens),
        )

    def with_answer(self) -> "MeasuredCalls":
        """The same with one more that was sent and answered."""
        return replace(self, answered=self.answered + 1)

    def with_failure(self, *, billed: bool) -> "MeasuredCalls":
        """The same with one more that was sent and failed."""
        return replace(self, failed=self.failed + 1, lost=self.lost + billed)

    def largest(self, bound: CallSize) -> CallSize:
        """The bound, corrected by calls that took more than theirs: not every provider keeps to what it was asked."""
        most_out = None if bound.output_tokens is None else max(bound.output_tokens, self.largest_output)
        return CallSize(math.ceil(bound.input_tokens * max(1.0, self.largest_excess)), most_out)

    def expected(self, bound: CallSize) -> CallSize:
        """What an answer to it probably takes, with the failures on the way that stay booked with all that they may.

        As long as none was measured, an answer takes all that it may as well.
        """
        most, lost = self.largest(bound), self.lost / self.answered if self.answered else 0.0
        if not self.n:
            tokens_in, tokens_out = most.input_tokens, float(most.output_tokens or 0)
        else:
            tokens_in, tokens_out = (
                bound.input_tokens * self.input_tokens / self.bound_tokens,
                self.output_tokens / self.n,
            )
        return CallSize(
            math.ceil(tokens_in + lost * most.input_tokens), math.ceil(tokens_out + lost * (most.output_tokens or 0))
        )


def size_bound(messages: Sequence[Message], parameters: Mapping[str, object]) -> CallSize:
    """What a call can take at the most. A tokenizer makes no more tokens of a text than it has bytes in UTF-8."""
    sent: JsonObject = {name: parameters[name] for name in _SENT_WITH_INPUT if name in parameters}
    n_bytes = len(msgspec.json.encode([list(messages), sent]))
    attachments = sum(_attachments(message.get("content")) for message in messages)
    return CallSize(n_bytes + _TOKENS_PER_CALL + attachments * _TOKENS_PER_ATTACHMENT, _output_bound(parameters))


def _attachments(content: object) -> int:
    if not isinstance(content, list):
        return 0
    return sum(not (isinstance(part, dict) and part.get("type") in ("text", "refusal")) for part in content)


def _output_bound(parameters: Mapping[str, object]) -> int | None:
    named = [parameters.get("max_tokens"), parameters.get("max_completion_tokens")]
    limits = [n for n in named if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    n_answers = parameters.get("n")
    answers = max(1, math.ceil(n_answers)) if isinstance(n_answers, int | float) else 1
    return max(limits) * answers if limits else None
