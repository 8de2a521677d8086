"""One model asked through the answer cache: bounded concurrency, retries, a budget, and nothing paid for twice."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
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
from rs_pipelines.answers import AnswerCache, ModelAnswer
from rs_pipelines.call_budget import CallBudget
from rs_pipelines.call_sizes import CallSize, MeasuredCalls, size_bound
from rs_pipelines.pacing import Pace
from rs_pipelines.spending import Allowance, Booking

_MAYBE_BILLED = frozenset({408, 504, 524})
"""A proxy ran out of patience; the model behind it may have answered."""


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
    def name(self) -> str:
        """As the configuration names a model of a provider."""
        return f"{self.provider}/{self.model}"

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
    measured: dict[str, MeasuredCalls] = field(default_factory=dict[str, MeasuredCalls])


@dataclass(slots=True)
class _Flight:
    done: anyio.Event
    answer: ModelAnswer | None = None
    error: ProviderError | None = None


class UnboundedAnswerError(ConfigurationError):
    """A budget in tokens or dollars cannot be kept, because an answer may be as long as the model likes."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"mipro_v2.max_tokens and max_cost_usd cannot be kept: nothing limits how long an answer of {model} may "
            "be. Give it `max_tokens` in the parameters of its combination or the options of its provider (what is "
            "served keeps to it too), or set mipro_v2.max_calls instead."
        )


class UnpricedModelError(ConfigurationError):
    """A budget in dollars cannot be kept, because nobody knows what the model costs."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"mipro_v2.max_cost_usd cannot be kept: nobody knows what {model} costs. Give its price in the provider's "
            "`prices`, or set mipro_v2.max_calls or mipro_v2.max_tokens instead."
        )


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

    @property
    def measured(self) -> Mapping[str, MeasuredCalls]:
        """What calls took, by model (`provider/model`), those of peers and those out of the cache included."""
        return dict(self._tally.measured)

    @property
    def calls_per_answer(self) -> float:
        """How often an answer has to be asked for, by what was measured so far; 1 where no call failed."""
        answered = sum(measured.answered for measured in self._tally.measured.values())
        failed = sum(measured.failed for measured in self._tally.measured.values())
        return 1 + failed / answered if answered else 1.0

    def remember(self, measured: Mapping[str, MeasuredCalls]) -> None:
        """Begin with what an earlier process measured."""
        self._tally.measured.update(measured)

    def check(self, allowance: Allowance) -> None:
        """Whether calls of this model can be kept within an allowance.

        Raises:
            UnboundedAnswerError, UnpricedModelError: they cannot, because nobody knows what one takes at the most.
        """
        if not allowance.only_calls and size_bound((), self.identity.request_parameters(0)).output_tokens is None:
            raise UnboundedAnswerError(self.identity.name)
        if allowance.usd is not None and self._cost(1, 1) is None:
            raise UnpricedModelError(self.identity.name)

    def expected(self, messages: Sequence[Message]) -> Booking:
        """What asking this will probably take, by what was measured so far."""
        bound = size_bound(messages, self.identity.request_parameters(0))
        return self._booking(self._own_measured.expected(bound))

    def largest(self, messages: Sequence[Message]) -> Booking:
        """What asking this can take at the most."""
        bound = size_bound(messages, self.identity.request_parameters(0))
        return self._booking(self._own_measured.largest(bound))

    @property
    def _own_measured(self) -> MeasuredCalls:
        return self._tally.measured.get(self.identity.name, MeasuredCalls())

    def _booking(self, size: CallSize) -> Booking:
        tokens_out = size.output_tokens or 0
        return Booking(size.input_tokens + tokens_out, self._cost(size.input_tokens, tokens_out) or 0.0)

    async def _get_or_ask(self, key: str, messages: Sequence[Message], salt: int) -> ModelAnswer:
        parameters = self.identity.request_parameters(salt)
        stored = await anyio.to_thread.run_sync(self.cache.get, key)
        if stored is not None:
            self._tally.cache_hits += 1
            self._measure(size_bound(messages, parameters), stored)
            return stored
        async with self._slots:
            return await self._ask(
                key, ProviderCall(self.identity.model, tuple(messages), parameters, self._limits.timeout_s)
            )

    async def _ask(self, key: str, call: ProviderCall) -> ModelAnswer:
        for attempt in range(1, self._limits.max_attempts):
            try:
                return await self._attempt(key, call)
            except ProviderError as error:
                if not error.retryable or (error.retry_after_s or 0) > self._limits.max_wait_s:
                    raise
                await anyio.sleep(max(error.retry_after_s or 0, self._backoff_s(attempt)))
        return await self._attempt(key, call)

    async def _attempt(self, key: str, call: ProviderCall) -> ModelAnswer:
        bound, budget = size_bound(call.messages, call.parameters), self._budget
        if budget is None:
            await self._turn()
            return await self._send(key, call, bound, Booking())
        self.check(budget.allowance)
        booking = self._booking(self._own_measured.largest(bound))
        # Before its turn: a budget that is spent says so at once.
        await budget.book(booking)
        try:
            try:
                await self._turn()
            except BaseException:
                await budget.cancel(booking)
                raise
            return await self._send(key, call, bound, booking)
        except ProviderError as error:
            # Whatever may have been billed stays booked: a late answer, a broken one, one that cannot be read.
            unbilled = _is_unbilled(error)
            self._tally.measured[self.identity.name] = self._own_measured.with_failure(billed=not unbilled)
            if unbilled:
                await budget.refund(booking)
            raise
        finally:
            budget.settle()

    async def _turn(self) -> None:
        if self.pace is not None:
            await self.pace.turn()

    async def _send(self, key: str, call: ProviderCall, bound: CallSize, booked: Booking) -> ModelAnswer:
        self._tally.calls_made += 1
        answer = parse_completion(await self._provider.complete(call), provider=self.identity.provider)
        self._tally.measured[self.identity.name] = self._own_measured.with_answer()
        self._measure(bound, answer)
        # Paid for: keep it even if whoever wanted it has gone.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._keep, key, answer, booked)
        return answer

    def _measure(self, bound: CallSize, answer: ModelAnswer) -> None:
        if answer.input_tokens is not None and answer.output_tokens is not None:
            seen = self._own_measured.with_call(bound, answer.input_tokens, answer.output_tokens)
            self._tally.measured[self.identity.name] = seen

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


def _is_unbilled(error: ProviderError) -> bool:
    """Whether a provider said no, or could not even be reached."""
    refused = error.status is not None and error.status >= 400 and error.status not in _MAYBE_BILLED
    return refused or not error.sent


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
