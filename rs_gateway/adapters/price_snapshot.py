"""Makes `prices.json` out of the installed litellm: `python -m rs_gateway.adapters.price_snapshot`.

Run it after litellm was upgraded. litellm is not imported, only its price list is read.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, TypeGuard

SOURCE = "litellm"
_LIST = "litellm/model_prices_and_context_window_backup.json"
_MODES = frozenset({"chat", "responses", "completion", "embedding"})
_INPUT = "input_cost_per_token"
_KINDS = (
    _INPUT,
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    "output_cost_per_reasoning_token",
)
_TIER = re.compile(_INPUT + r"_above_(\d+)k_tokens")
_Prices = list[float | None]


def take_snapshot() -> tuple[str, dict[str, dict[str, list[Any]]]]:
    """litellm's version, and provider -> model -> row (see `price_table.Row`), sorted."""
    package = distribution(SOURCE)
    listed: dict[str, dict[str, Any]] = json.loads(Path(str(package.locate_file(_LIST))).read_text(encoding="utf-8"))
    return package.version, rows_of(listed)


def rows_of(listed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """The rows of litellm's list, provider -> model -> row, sorted; without what has no price for a token."""
    rows: dict[str, dict[str, list[Any]]] = {}
    # Names that carry their provider come last: they are the exact ones where the list holds both.
    for key in sorted(listed, key=lambda k: ("/" in k, k)):
        facts = listed[key]
        provider = facts.get("litellm_provider")
        if not isinstance(provider, str) or facts.get("mode") not in _MODES:
            continue
        row = _row(facts)
        if row is not None:
            rows.setdefault(provider, {})[key.removeprefix(provider + "/")] = row
    return {provider: dict(sorted(models.items())) for provider, models in sorted(rows.items())}


def to_json(version: str, rows: Mapping[str, Mapping[str, list[Any]]], *, taken_on: str) -> str:
    """The text of `prices.json`, one model a line, so that a new snapshot can be reviewed."""
    providers = (
        f"{json.dumps(provider)}:{{\n" + ",\n".join(f"{json.dumps(m)}:{_compact(r)}" for m, r in models.items()) + "}"
        for provider, models in rows.items()
    )
    head = f'"source":{json.dumps(SOURCE)},"version":{json.dumps(version)},"taken_on":{json.dumps(taken_on)}'
    return f'{{{head},"prices":{{\n' + ",\n".join(providers) + "}}\n"


def _row(facts: Mapping[str, Any]) -> list[Any] | None:
    tiers = sorted(_tiers(facts), key=lambda tier: tier[0])
    base = tiers.pop(0)[1] if tiers and tiers[0][0] == 0 else _prices(facts)
    # 0 stands for free trials, for models on somebody's own machine and for prices that nobody knew: not for a price.
    if base is None or not any(base):
        return None
    row: list[Any] = _trimmed(base)
    if tiers:
        row = [*base, [[above, *_trimmed(prices)] for above, prices in tiers]]
    return row


def _tiers(facts: Mapping[str, Any]) -> Iterator[tuple[int, _Prices]]:
    for tier in facts.get("tiered_pricing") or ():
        prices = _prices(tier)
        if prices is not None:
            yield int(tier["range"][0]), prices
    for name in facts:
        match = _TIER.fullmatch(name)
        if match:
            suffix = f"_above_{match[1]}k_tokens"
            prices = _prices({kind: facts.get(kind + suffix, facts.get(kind)) for kind in _KINDS})
            if prices is not None:
                yield int(match[1]) * 1000, prices


def _prices(facts: Mapping[str, Any]) -> _Prices | None:
    """The five prices for a million tokens; None when the ordinary ones are not stated."""
    stated = [facts.get(kind) for kind in _KINDS]
    if stated[1] is None and facts.get("mode") == "embedding":
        stated[1] = 0.0
    if not _is_price(stated[0]) or not _is_price(stated[1]):
        return None
    prices: _Prices = [round(v * 1e6, 9) if _is_price(v) else None for v in stated]
    if prices[0]:
        # Writing to a cache is input too: 0 there means that no extra is charged, not that the tokens are free.
        prices[3] = prices[3] or None
    return prices


def _is_price(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _trimmed(prices: _Prices) -> _Prices:
    end = len(prices)
    while end > 2 and prices[end - 1] is None:
        end -= 1
    return prices[:end]


def _compact(row: list[Any]) -> str:
    return json.dumps(row, separators=(",", ":")).replace(".0,", ",").replace(".0]", "]")


def main() -> None:
    """Write `prices.json` beside this module."""
    from rs_gateway.adapters.price_table import SNAPSHOT

    version, rows = take_snapshot()
    target = Path(__file__).with_name(SNAPSHOT)
    target.write_text(to_json(version, rows, taken_on=datetime.now(UTC).date().isoformat()), encoding="utf-8")
    sys.stdout.write(f"{target.name}: {sum(map(len, rows.values()))} models, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
