"""The shipped price table. `prices.json` is made by `price_snapshot.py` and read once, without litellm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

import msgspec

from rs_gateway.domain.pricing import Price, PriceBook

SNAPSHOT = "prices.json"
Row = list[float | list[list[float | None]] | None]
"""Input, output, cached input, cache write, reasoning, tiers: US dollars for a million tokens; absent at the end is
null. A tier is the number of input tokens above which it holds, then the same five prices."""


class SnapshotFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`prices.json`.

    Attributes:
        source, version: the package that the figures were taken from.
        taken_on: UTC date of that, as YYYY-MM-DD.
        prices: provider -> {model -> row}, in litellm's names; a provider is decoded when its first price is needed.
    """

    source: str
    version: str
    taken_on: str
    prices: dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class SnapshotOrigin:
    """Where the shipped prices come from."""

    source: str
    version: str
    taken_on: str


class OverriddenPrice(Protocol):
    """One price of the configuration; None where the ordinary price applies."""

    @property
    def input_usd_per_million_tokens(self) -> float: ...
    @property
    def output_usd_per_million_tokens(self) -> float: ...
    @property
    def cached_input_usd_per_million_tokens(self) -> float | None: ...
    @property
    def cache_write_usd_per_million_tokens(self) -> float | None: ...
    @property
    def reasoning_usd_per_million_tokens(self) -> float | None: ...


class ShippedPrices:
    """PriceTable over the snapshot. Keeps its bytes and what was asked of it, a few hundred kilobytes in all."""

    def __init__(self, snapshot: SnapshotFile) -> None:
        self._raw = snapshot.prices
        self._rows: dict[str, dict[str, Row]] = {}
        self.origin = SnapshotOrigin(snapshot.source, snapshot.version, snapshot.taken_on)

    def price(self, provider: str, model: str) -> Price | None:
        """The price of exactly this model; None when it is not in the list."""
        rows = self._rows.get(provider)
        if rows is None:
            raw = self._raw.get(provider)
            if raw is None:
                return None
            rows = self._rows[provider] = msgspec.json.decode(raw, type=dict[str, Row])
        row = rows.get(model)
        return None if row is None else _price(row)


@cache
def shipped_prices() -> ShippedPrices:
    """The table of this installation; read at the first call."""
    data = files("rs_gateway.adapters").joinpath(SNAPSHOT).read_bytes()
    return ShippedPrices(msgspec.json.decode(data, type=SnapshotFile))


def load_prices(overrides: Mapping[str, Mapping[str, OverriddenPrice]]) -> PriceBook:
    """The shipped prices under those of the configuration.

    Args:
        overrides: provider -> model -> price; a price of 0 is a price.
    """
    own = {provider: {m: _overriding(p) for m, p in models.items()} for provider, models in overrides.items() if models}
    return PriceBook(shipped_prices(), own)


def _overriding(price: OverriddenPrice) -> Price:
    return Price(
        price.input_usd_per_million_tokens,
        price.output_usd_per_million_tokens,
        price.cached_input_usd_per_million_tokens,
        price.cache_write_usd_per_million_tokens,
        price.reasoning_usd_per_million_tokens,
    )


def _price(row: Row) -> Price:
    plain = [value for value in row if not isinstance(value, list)]
    tiers = next((value for value in row if isinstance(value, list)), [])
    return _flat(plain, tuple((int(tier[0] or 0), _flat(tier[1:], ())) for tier in tiers))


def _flat(values: Sequence[float | None], tiers: tuple[tuple[int, Price], ...]) -> Price:
    usd_in, usd_out, cached, written, reasoning = [*values, *[None] * (5 - len(values))]
    assert usd_in is not None and usd_out is not None
    return Price(usd_in, usd_out, cached, written, reasoning, tiers)
