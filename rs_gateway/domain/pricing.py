"""What a call costs. An unknown price is None, which is not 0: only the owner can say that a model is free."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rs_gateway.domain.traces import Usage

_TABLE_NAMES: Mapping[str, tuple[str, ...]] = {
    "google": ("gemini",),
    "cohere": ("cohere_chat", "cohere"),
    "together": ("together_ai",),
    "fireworks": ("fireworks_ai", "fireworks_ai-embedding-models"),
    "nvidia": ("nvidia_nim",),
}
"""Provider names of ours that the price table spells differently."""
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens of each kind. None: that kind costs what ordinary input or output costs.

    Attributes:
        tiers: (n, price) with rising n: a request of more than n input tokens costs `price` throughout.
    """

    input_usd_per_million_tokens: float
    output_usd_per_million_tokens: float
    cached_input_usd_per_million_tokens: float | None = None
    cache_write_usd_per_million_tokens: float | None = None
    reasoning_usd_per_million_tokens: float | None = None
    tiers: "tuple[tuple[int, Price], ...]" = ()


class PriceTable(Protocol):
    """A list of prices by provider and model, in the table's own names."""

    def price(self, provider: str, model: str) -> Price | None:
        """The price of exactly this model; None when it is not in the list."""
        ...


class PriceBook:
    """The price of every model that can be asked: the owner's own, else the table's.

    A model is looked up under its own provider alone. What another provider takes for a model of the same name says
    nothing about this one.

    Args:
        overrides: provider -> model -> price, by the names of the configuration.
    """

    def __init__(self, table: PriceTable, overrides: Mapping[str, Mapping[str, Price]]) -> None:
        self._table = table
        self._overrides = overrides
        self._known: dict[tuple[str, str], Price | None] = {}

    def cost_usd(self, provider: str, model: str, usage: Usage) -> float | None:
        """US dollars for one call; None when the price, or a count that matters, is unknown."""
        key = (provider, model)
        price = self._known[key] if key in self._known else self._look_up(provider, model)
        return None if price is None else cost_of(usage, price)

    def is_priced(self, provider: str, model: str) -> bool:
        """Whether the calls of this model have a known price."""
        return self._look_up(provider, model) is not None

    def _look_up(self, provider: str, model: str) -> Price | None:
        """Only ever asked about models of the configuration, so that what it remembers stays small."""
        price = self._overrides.get(provider, {}).get(model)
        if price is None:
            price = next((p for name in _names(model, provider) if (p := self._listed(provider, name))), None)
        self._known[provider, model] = price
        return price

    def _listed(self, provider: str, model: str) -> Price | None:
        tables = _TABLE_NAMES.get(provider, (provider,))
        return next((price for table in tables if (price := self._table.price(table, model)) is not None), None)


def cost_of(usage: Usage, price: Price) -> float | None:
    """US dollars for `usage`; None when a count that costs something is unknown."""
    n_input, n_output = usage.input_tokens, usage.output_tokens
    if price.tiers and n_input is not None:
        for above, dearer in price.tiers:
            if n_input > above:
                price = dearer
    input_usd, output_usd = price.input_usd_per_million_tokens, price.output_usd_per_million_tokens
    if n_input is None:
        if input_usd:
            return None
        n_input = 0
    if n_output is None:
        if output_usd:
            return None
        n_output = 0
    total = n_input * input_usd + n_output * output_usd
    # Each special kind is a part of the whole, which is already counted at the ordinary price: only the difference is
    # added. A part larger than the whole is a miscount and not worth more than the whole.
    n_cached = usage.cached_input_tokens
    if n_cached:
        n_cached = min(n_cached, n_input)
        if price.cached_input_usd_per_million_tokens is not None:
            total += n_cached * (price.cached_input_usd_per_million_tokens - input_usd)
    if usage.cache_write_tokens and price.cache_write_usd_per_million_tokens is not None:
        n_written = min(usage.cache_write_tokens, n_input - (n_cached or 0))
        total += n_written * (price.cache_write_usd_per_million_tokens - input_usd)
    if usage.reasoning_tokens and price.reasoning_usd_per_million_tokens is not None:
        n_reasoning = min(usage.reasoning_tokens, n_output)
        total += n_reasoning * (price.reasoning_usd_per_million_tokens - output_usd)
    return total / _MILLION


def _names(model: str, provider: str) -> tuple[str, ...]:
    """The names under which the table may hold `model`, the exact one first."""
    names = [model]
    for prefix in (provider, *_TABLE_NAMES.get(provider, ())):
        if model.startswith(prefix + "/"):
            names.append(model[len(prefix) + 1 :])
    if model.startswith("ft:"):
        # A fine-tuned model is named ft:BASE:ORGANISATION:NAME:ID and costs what every tuned BASE does.
        names.append(":".join(model.split(":", 2)[:2]))
    return tuple(names)
