"""Token buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.rates import TokenBucket

RATES = st.floats(0.01, 10_000)
BURSTS = st.floats(1, 100_000)
AMOUNTS = st.floats(0, 10_000)
CLOCKS = st.floats(0, 2e9)


def test_a_bucket_starts_full_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(2.0, 10.0)
    assert bucket.level(100.0) == 10.0
    bucket.take(10.0, 100.0)
    assert bucket.level(100.0) == 0.0
    assert bucket.wait_s(100.0) == 0.5
    assert bucket.level(103.0) == 6.0
    assert bucket.level(500.0) == 10.0


def test_debt_delays_what_comes_later() -> None:
    bucket = TokenBucket(1.0, 10.0)
    bucket.take(30.0, 0.0)
    assert bucket.level(0.0) == -20.0
    assert bucket.wait_s(0.0) == 21.0
    assert bucket.wait_s(21.0) == 0.0


def test_more_than_the_burst_waits_for_a_full_bucket() -> None:
    bucket = TokenBucket(1.0, 10.0)
    assert bucket.wait_s(0.0, 1_000.0) == 0.0
    bucket.take(4.0, 0.0)
    assert bucket.wait_s(0.0, 1_000.0) == 4.0


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_bucket_without_rate_or_burst_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst)


@given(RATES, BURSTS, CLOCKS, st.lists(st.tuples(st.floats(0, 1_000), AMOUNTS), max_size=30))
def test_a_bucket_never_gives_more_than_its_burst_and_what_flowed_in(
    rate: float, burst: float, start_s: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now_s, taken = TokenBucket(rate, burst), start_s, 0.0
    for pause_s, amount in steps:
        now_s += pause_s
        if bucket.level(now_s) >= amount:
            bucket.take(amount, now_s)
            taken += amount
        assert bucket.level(now_s) <= burst
    rounding = 1e-6 * (1 + rate) * (1 + len(steps)) + 1e-9 * taken
    assert taken <= burst + rate * (now_s - start_s) + rounding


@given(RATES, BURSTS, CLOCKS, AMOUNTS, st.floats(0.001, 1))
def test_after_the_wait_it_asked_for_the_amount_is_there_and_not_much_earlier(
    rate: float, burst: float, now_s: float, taken: float, share: float
) -> None:
    bucket, amount = TokenBucket(rate, burst), burst * share
    bucket.take(taken, now_s)
    wait_s = bucket.wait_s(now_s, amount)
    rounding = 3e-6 * (1 + rate)
    assert bucket.level(now_s + wait_s) >= amount - rounding
    if wait_s > 0:
        assert bucket.level(now_s + wait_s * 0.9) < amount + rounding


@given(RATES, BURSTS, CLOCKS, st.lists(AMOUNTS, max_size=10))
def test_two_workers_that_add_up_their_debts_share_one_bucket(
    rate: float, burst: float, now_s: float, amounts: list[float]
) -> None:
    alone = TokenBucket(rate, burst)
    for amount in amounts:
        alone.take(amount, now_s)
    shared_full_at_s = now_s + sum(amounts) / rate
    shared = TokenBucket(rate, burst, full_at_s=shared_full_at_s)
    assert shared.level(now_s) == pytest.approx(alone.level(now_s), abs=1e-4 * (1 + rate), rel=1e-6)
