"""What a call costs, and when that is not known."""

from dataclasses import dataclass
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.adapters.price_snapshot import rows_of, take_snapshot, to_json
from rs_gateway.adapters.price_table import SNAPSHOT, load_prices, shipped_prices
from rs_gateway.domain.pricing import Price, PriceBook, cost_of
from rs_gateway.domain.traces import Usage, UsageSource


@dataclass(frozen=True)
class Own:
    """A price of the configuration."""

    input_usd_per_million_tokens: float
    output_usd_per_million_tokens: float
    cached_input_usd_per_million_tokens: float | None = None
    cache_write_usd_per_million_tokens: float | None = None
    reasoning_usd_per_million_tokens: float | None = None


def used(n_input: int | None, n_output: int | None, **parts: int | None) -> Usage:
    return Usage(n_input, n_output, UsageSource.PROVIDER, **parts)


BOOK = load_prices({})
MILLION = used(1_000_000, 1_000_000)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-4o-mini-2024-07-18"),
        ("openai", "text-embedding-3-small"),
        ("openai", "ft:gpt-4o-2024-08-06:acme::abc123"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-sonnet-4-5-20250929"),
        ("anthropic", "anthropic/claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
        ("google", "gemini/gemini-2.5-pro"),
        ("mistral", "mistral-large-latest"),
        ("mistral", "mistral-embed"),
        ("cohere", "command-a-03-2025"),
        ("cohere", "embed-v4.0"),
        ("groq", "openai/gpt-oss-20b"),
        ("deepseek", "deepseek-chat"),
    ],
)
def test_the_shipped_table_knows_the_models_of_our_providers(provider: str, model: str) -> None:
    cost = BOOK.cost_usd(provider, model, MILLION)
    assert cost is not None
    assert cost > 0
    assert BOOK.is_priced(provider, model)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("my-vllm", "gpt-4o-mini"),
        ("openai", "claude-sonnet-4-5"),
        ("openai", "gpt-4o-mini-of-tomorrow"),
        ("ollama", "llama3"),
        ("ollama", "openai/gpt-4o-mini"),
        ("", ""),
    ],
)
def test_a_price_is_never_guessed_from_another_provider_or_a_similar_name(provider: str, model: str) -> None:
    assert BOOK.cost_usd(provider, model, MILLION) is None
    assert not BOOK.is_priced(provider, model)


def test_known_prices_come_out_in_dollars() -> None:
    assert BOOK.cost_usd("openai", "gpt-4o-mini", used(1000, 500)) == pytest.approx(0.00015 + 0.0003)
    assert BOOK.cost_usd("google", "gemini-2.5-pro", used(1000, 500)) == pytest.approx(0.00125 + 0.005)


def test_a_long_request_is_charged_at_the_dearer_price_throughout() -> None:
    assert BOOK.cost_usd("google", "gemini-2.5-pro", used(200_000, 0)) == pytest.approx(0.25)
    assert BOOK.cost_usd("google", "gemini-2.5-pro", used(200_001, 1000)) == pytest.approx(0.5000025 + 0.015)


def test_cached_written_and_reasoning_tokens_have_prices_of_their_own() -> None:
    price = Price(10, 20, cached_input_usd_per_million_tokens=1, cache_write_usd_per_million_tokens=12.5)
    usage = used(1000, 100, cached_input_tokens=600, cache_write_tokens=300, reasoning_tokens=40)
    assert cost_of(usage, price) == pytest.approx((100 * 10 + 600 * 1 + 300 * 12.5 + 100 * 20) / 1e6)
    dear = Price(10, 20, reasoning_usd_per_million_tokens=30)
    assert cost_of(usage, dear) == pytest.approx((1000 * 10 + 60 * 20 + 40 * 30) / 1e6)


def test_an_estimated_usage_is_priced_too() -> None:
    assert BOOK.cost_usd("openai", "gpt-4o-mini", Usage(10, 10, UsageSource.ESTIMATED)) is not None


def test_unknown_counts_have_no_cost_unless_they_cost_nothing() -> None:
    assert BOOK.cost_usd("openai", "gpt-4o-mini", Usage.unknown()) is None
    assert BOOK.cost_usd("openai", "gpt-4o-mini", used(10, None)) is None
    assert BOOK.cost_usd("openai", "text-embedding-3-small", used(1_000_000, None)) == pytest.approx(0.02)


def test_the_owners_price_wins_and_zero_is_a_price() -> None:
    book = load_prices({"my-vllm": {"llama": Own(0, 0)}, "openai": {"gpt-4o-mini": Own(1, 2)}, "groq": {}})
    assert book.cost_usd("my-vllm", "llama", MILLION) == 0.0
    assert book.is_priced("my-vllm", "llama")
    assert book.cost_usd("my-vllm", "llama", Usage.unknown()) == 0.0
    assert book.cost_usd("openai", "gpt-4o-mini", MILLION) == pytest.approx(3)
    assert book.cost_usd("openai", "gpt-4o", MILLION) == BOOK.cost_usd("openai", "gpt-4o", MILLION)
    assert book.cost_usd("elsewhere", "llama", MILLION) is None


counts = st.integers(0, 10**7)
prices = st.floats(0, 1000)


@given(
    st.builds(Price, prices, prices, st.none() | prices, st.none() | prices, st.none() | prices),
    st.builds(
        used,
        counts,
        counts,
        cached_input_tokens=st.none() | counts,
        cache_write_tokens=st.none() | counts,
        reasoning_tokens=st.none() | counts,
    ),
)
def test_a_cost_lies_between_the_cheapest_and_the_dearest_kind(price: Price, usage: Usage) -> None:
    """Even when the parts that a provider counted are larger than the whole."""
    cost = cost_of(usage, price)
    assert cost is not None
    assert usage.input_tokens is not None
    assert usage.output_tokens is not None
    inputs = [
        price.input_usd_per_million_tokens,
        price.cached_input_usd_per_million_tokens,
        price.cache_write_usd_per_million_tokens,
    ]
    outputs = [price.output_usd_per_million_tokens, price.reasoning_usd_per_million_tokens]
    low, high = (
        usage.input_tokens * pick(p for p in inputs if p is not None)
        + usage.output_tokens * pick(p for p in outputs if p is not None)
        for pick in (min, max)
    )
    assert low / 1e6 - 1e-6 <= cost <= high / 1e6 + 1e-6


def test_a_model_is_looked_up_once() -> None:
    class Counting:
        n_lookups = 0

        def price(self, provider: str, model: str) -> Price | None:
            self.n_lookups += 1
            return None

    table = Counting()
    book = PriceBook(table, {})
    for _ in range(3):
        assert book.cost_usd("openai", "gpt-9", MILLION) is None
    assert table.n_lookups == 1


def test_the_shipped_snapshot_is_that_of_the_installed_litellm() -> None:
    """Fails after an upgrade of litellm: run `python -m rs_gateway.adapters.price_snapshot` and look at the changes."""
    from importlib.resources import files

    origin = shipped_prices().origin
    assert (origin.source, origin.version) == ("litellm", version("litellm"))
    text = files("rs_gateway.adapters").joinpath(SNAPSHOT).read_text(encoding="utf-8")
    assert text == to_json(*take_snapshot(), taken_on=origin.taken_on)


def test_what_has_no_price_for_a_token_is_left_out_of_a_snapshot() -> None:
    chat = {"litellm_provider": "v", "mode": "chat"}
    rows = rows_of(
        {
            "v/free-trial": {**chat, "input_cost_per_token": 0, "output_cost_per_token": 0},
            "v/by-the-image": {
                **chat,
                "mode": "image_generation",
                "input_cost_per_token": 1,
                "output_cost_per_token": 1,
            },
            "v/by-the-second": {**chat, "input_cost_per_second": 1},
            "v/half": {**chat, "input_cost_per_token": 1e-6},
            "v/good": {
                **chat,
                "input_cost_per_token": 1e-6,
                "output_cost_per_token": 2e-6,
                "cache_creation_input_token_cost": 0,
                "input_cost_per_token_above_200k_tokens": 3e-6,
            },
            "v/tiered": {
                **chat,
                "tiered_pricing": [
                    {"range": [0, 128000], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
                    {"range": [128000, 1e6], "input_cost_per_token": 4e-6, "output_cost_per_token": 8e-6},
                ],
            },
        }
    )
    assert rows == {
        "v": {
            "good": [1.0, 2.0, None, None, None, [[200000, 3.0, 2.0]]],
            "tiered": [1.0, 2.0, None, None, None, [[128000, 4.0, 8.0]]],
        }
    }
