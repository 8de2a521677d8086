"""One model asked through the answer cache: bounded concurrency, retries, a budget, and nothing paid for twice."""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import msgspec

from rs_gateway.domain.answers import WireUsage, decode_completion, text_of
from rs_gateway.domain.chat import JsonObject, Message, ProviderCall
from rs_gateway.domain.errors import ConfigurationError, ProviderError, ProviderGarbageError
from rs_gateway.domain.ports import ChatProvider
from rs_pipelines.answers import AnswerCache, Booking, CallBudget, ModelAnswer
from rs_pipelines.pacing import Pace

_CHARACTERS_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8
"""More tokens than English text has, so that a budget is not overdrawn."""
_ASSUMED_OUTPUT_TOKENS = 1_024
"""Of an answer whose length the request does not limit."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model is asked, and how; part of every cache key.

    Attributes:
        provider: name of the provider in the configuration.
        parameters: as a combination has them. `temperature` defaults to 0 and `seed` to the run's; a parameter set to
            None is not sent at all, for providers that refuse it.
        seed: the run's seed.
    """

    provider: str
    model: str
    parameters: JsonObject = field(default_factory=JsonObject)
    seed: int = 0

    def request_parameters(self, salt: int) -> JsonObject:
        """What is sent beside the messages. Another salt is another draw of the same question."""
        parameters: JsonObject = {"temperature": 0, "seed": self.seed, **self.parameters}
        if isinstance(parameters["seed"], int):
            parameters["seed"] += salt
        return {name: value for name, value in parameters.items() if value is not None}

    def key(self, messages: Sequence[Message], salt: int) -> str:
        """SHA-256 of all that decides the answer."""
        content: list[Any] = [self.provider, self.model, list(messages), self.request_parameters(salt)]
        if self.parameters.get("seed", self.seed) is None:
            content.append(salt)
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Names the identity in the ids of records that depend on it."""
        return self.key((), 0)[:16]


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How hard a provider is asked.

    Attributes:
        max_attempts: tries of one call, the first included.
        max_wait_s: a provider that asks for a longer pause than this is not waited for.
    """

    max_concurrency: int = 8
    timeout_s: float = 60.0
    max_attempts: int = 4
    base_delay_s: float = 0.5
    max_delay_s: float = 20.0
    max_wait_s: float = 120.0


@dataclass(slots=True)
class _Tally:
    calls_made: int = 0
    cache_hits: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class _Flight:
    done: anyio.Event
    answer: ModelAnswer | None = None
    error: ProviderError | None = None


CallCost: TypeAlias = Callable[[int | None, int | None], float | None]
"""Input and output tokens of a call -> its price in US dollars; None when it is unknown."""


def unknown_cost(_input_tokens: int | None, _output_tokens: int | None) -> float | None:
    """Where no price is known."""
    return None


PeerFinder: TypeAlias = Callable[[str, JsonObject], "CachedModel"]
"""`provider/model` and request parameters -> that model of the same configuration, over the same cache."""


class CachedModel:
    """One model of one provider, asked through the cache.

    Equal calls that run at the same time are made once. An answer is committed before it is returned, so a killed
    process loses at most the calls in flight.
    """

    def __init__(
        self,
        provider: ChatProvider,
        identity: ModelIdentity,
        cache: AnswerCache,
        *,
        rng: Random,
        limits: CallLimits | None = None,
        budget: CallBudget | None = None,
        peers: PeerFinder | None = None,
        cost: CallCost = unknown_cost,
        pace: Pace | None = None,
    ) -> None:
        """
        Args:
            pace: of its provider; None asks as fast as the slots allow.
            rng: draws the jitter between retries; decides nothing else.
            cost: of a call of this model, for budgets in US dollars.
            budget: None spends without limit or account.
            peers: finds other models by name, for evaluators that ask one.
        """
        self.identity = identity
        self.cache = cache
        self._provider = provider
        self._rng = rng
        self._limits = limits or CallLimits()
        self._budget = budget
        self._peers = peers
        self._cost, self.pace = cost, pace
        self._slots = anyio.CapacityLimiter(self._limits.max_concurrency)
        self._flights: dict[str, _Flight] = {}
        self._tally = _Tally()

    def on(self, budget: CallBudget) -> "CachedModel":
        """The same model (slots, counters, calls in flight), spending from `budget`."""
        other = copy.copy(self)
        other._budget = budget
        return other

    def peer(self, name: str, parameters: JsonObject) -> "CachedModel":
        """Another model, spending from this one's budget and counted in its counters.

        Args:
            name: `provider/model`.
            parameters: over the provider's own options.

        Raises:
            ConfigurationError: the configuration has no such provider.
        """
        if self._peers is None:
            raise ConfigurationError(f"{name!r} cannot be asked here: only the models of a configuration can.")
        other = copy.copy(self._peers(name, parameters))
        other._budget, other._tally = self._budget, self._tally
        return other

    @property
    def calls_made(self) -> int:
        """Calls sent to the provider by this process, retries included."""
        return self._tally.calls_made

    @property
    def cache_hits(self) -> int:
        """Answers that cost nothing."""
        return self._tally.cache_hits

    @property
    def input_tokens(self) -> int:
        """Tokens paid for by this process, as far as the provider said."""
        return self._tally.input_tokens

    @property
    def output_tokens(self) -> int:
        """Tokens paid for by this process, as far as the provider said."""
        return self._tally.output_tokens

    async def answer(self, messages: Sequence[Message], *, salt: int = 0) -> ModelAnswer:
        """The model's answer, from the cache if it was ever asked.

        Raises:
            ProviderError: it refused, or failed in every attempt.
            BudgetExhaustedError: the call would exceed the budget; it was not made.
        """
        key = self.identity.key(messages, salt)
        while (flight := self._flights.get(key)) is not None:
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
            if flight.answer is not None:
                self._tally.cache_hits += 1
                return replace(flight.answer, cached=True)
            # Whoever asked was cancelled or ran out of budget: ask ourselves.
        flight = self._flights[key] = _Flight(anyio.Event())
        try:
            flight.answer = await self._get_or_ask(key, messages, salt)
        except ProviderError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.done.set()
        return flight.answer

    async def _get_or_ask(self, key: str, messages: Sequence[Message], salt: int) -> ModelAnswer:
        stored = await anyio.to_thread.run_sync(self.cache.get, key)
        if stored is not None:
            self._tally.cache_hits += 1
            return stored
        async with self._slots:
            answer, booked = await self._ask(messages, self.identity.request_parameters(salt))
            # Paid for: keep it even if whoever wanted it has gone.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._keep, key, answer, booked)
        return answer

    async def _ask(self, messages: Sequence[Message], parameters: JsonObject) -> tuple[ModelAnswer, Booking]:
        call = ProviderCall(self.identity.model, tuple(messages), parameters, self._limits.timeout_s)
        for attempt in range(1, self._limits.max_attempts):
            try:
                return await self._attempt(call)
            except ProviderError as error:
                if not error.retryable or (error.retry_after_s or 0) > self._limits.max_wait_s:
                    raise
                await anyio.sleep(max(error.retry_after_s or 0, self._backoff_s(attempt)))
        return await self._attempt(call)

    async def _attempt(self, call: ProviderCall) -> tuple[ModelAnswer, Booking]:
        tokens_in, tokens_out = _most_tokens(call)
        booking = Booking(tokens_in + tokens_out, self._cost(tokens_in, tokens_out) or 0.0)
        budget = self._budget
        if self.pace is not None:
            await self.pace.turn()
        if budget is not None:
            await anyio.to_thread.run_sync(budget.charge, booking)
        self._tally.calls_made += 1
        try:
            return parse_completion(await self._provider.complete(call), provider=self.identity.provider), booking
        except ProviderError:
            if budget is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(budget.cache.refund, budget.account, booking)
            raise

    def _backoff_s(self, attempt: int) -> float:
        """Full jitter: uniform between 0 and an exponentially growing ceiling."""
        ceiling = min(self._limits.max_delay_s, self._limits.base_delay_s * 2 ** (attempt - 1))
        return self._rng.random() * ceiling

    def _keep(self, key: str, answer: ModelAnswer, booked: Booking) -> None:
        self._tally.input_tokens += answer.input_tokens or 0
        self._tally.output_tokens += answer.output_tokens or 0
        usd = self._cost(answer.input_tokens, answer.output_tokens) or 0.0
        account = self._budget.account if self._budget is not None else None
        self.cache.put(key, answer, account=account, booked=booked, usd=usd)


def _most_tokens(call: ProviderCall) -> tuple[int, int]:
    """What a call may use at most, by a cautious guess: input and output tokens."""
    characters = sum(len(text_of(message.get("content"))) for message in call.messages)
    limits = (call.parameters.get("max_tokens"), call.parameters.get("max_completion_tokens"))
    named = [limit for limit in limits if isinstance(limit, int)]
    most_out = min(named) if named else _ASSUMED_OUTPUT_TOKENS
    return math.ceil(characters / _CHARACTERS_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(call.messages), most_out


def parse_completion(body: bytes, *, provider: str) -> ModelAnswer:
    """The answer in the body of a `chat.completion`. Raises ProviderGarbageError."""
    try:
        completion = decode_completion(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderGarbageError(f"{provider} answered with no chat completion.", provider=provider) from error
    choice, usage = completion.choices[0], completion.usage or WireUsage()
    return ModelAnswer(
        text_of(choice.message.get("content")), choice.finish_reason, usage.input_tokens, usage.output_tokens
    )
