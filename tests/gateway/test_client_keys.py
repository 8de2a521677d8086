"""What a client key may be, and when its budget starts anew."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.domain.access import ClientKey, KeyLimits, check_key, period_end_s, period_name
from rs_gateway.domain.errors import InvalidRequestError
from rs_gateway.keys import Grant, find_key, issue_key, key_facts, record_facts, revoke_key, update_key
from tests.access_fakes import NOON, MemoryAccessStore

KEY = ClientKey("k1", "shop", NOON, "ann")


@given(st.floats(0, 4e9), st.sampled_from(["day", "month"]))
def test_a_period_lasts_until_its_end_and_not_longer(now_s: float, period: str) -> None:
    assert period in ("day", "month")
    end_s = period_end_s(period, now_s)
    assert end_s > now_s
    assert period_name(period, end_s - 0.001) == period_name(period, now_s)
    assert period_name(period, end_s) != period_name(period, now_s)


def test_periods_are_utc() -> None:
    at_s = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert (period_name("day", at_s), period_name("month", at_s)) == ("2026-12-31", "2026-12")
    new_year_s = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert period_end_s("day", at_s) == period_end_s("month", at_s) == new_year_s
    assert (period_name("total", at_s), period_end_s("total", at_s)) == ("total", math.inf)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (replace(KEY, name="  "), "name"),
        (replace(KEY, name="x" * 201), "name"),
        (replace(KEY, name="a\nb"), "name"),
        (replace(KEY, limits=KeyLimits(requests_per_minute=0)), "requests_per_minute"),
        (replace(KEY, limits=KeyLimits(tokens_per_minute=-5)), "tokens_per_minute"),
        (replace(KEY, limits=KeyLimits(concurrency=10**10)), "concurrency"),
        (replace(KEY, limits=KeyLimits(budget_usd=math.nan)), "budget_usd"),
        (replace(KEY, limits=KeyLimits(budget_usd=math.inf)), "budget_usd"),
        (replace(KEY, limits=KeyLimits(budget_usd=-1.0)), "budget_usd"),
        (replace(KEY, limits=KeyLimits(budget_period="week")), "budget_period"),  # pyright: ignore[reportArgumentType]
        (replace(KEY, templates=frozenset({""})), "templates"),
        (replace(KEY, models=frozenset({"a\x00"})), "models"),
        (replace(KEY, expires_at=NOON), "expires_at"),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused_by_the_field_at_fault(wrong: ClientKey, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named) as refusal:
        check_key(wrong)
    assert refusal.value.param == named


def test_a_revoked_key_can_be_neither_changed_nor_revived() -> None:
    store = MemoryAccessStore()
    key_id = issue_key(store, Grant("shop"), by="ann", now_s=NOON).key.key_id
    revoke_key(store, key_id, now_s=NOON + 1)
    assert revoke_key(store, key_id, now_s=NOON + 9).revoked_at == NOON + 1
    with pytest.raises(InvalidRequestError, match="revoked for good"):
        update_key(store, key_id, lambda key: replace(key, revoked_at=None))


def test_the_facts_of_a_key_hold_no_secret() -> None:
    store = MemoryAccessStore()
    issued = issue_key(store, Grant("shop", models=frozenset({"b", "a"})), by="ann", now_s=NOON)
    (record,) = store.records(now_s=NOON)
    facts = record_facts(find_key([record], issued.key.key_id), now_s=NOON)
    assert facts["state"] == "active"
    assert (facts["templates"], facts["models"], facts["created_at"]) == (None, ["a", "b"], "2023-11-15T12:00:00+00:00")
    assert facts["spent_usd"] == 0.0
    assert issued.secret not in str(facts)
    assert issued.secret not in repr(issued)
    assert record.secret_hash.hex() not in str(facts)
    assert key_facts(replace(issued.key, expires_at=NOON + 1), now_s=NOON + 1)["state"] == "expired"
