"""The answer cache in Postgres: as the file, for processes on several machines."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rs_gateway.domain.errors import StoreError
from rs_pipelines.answers import ModelAnswer
from rs_pipelines.postgres_answers import PostgresAnswerCache
from rs_pipelines.spending import Allowance, Booking, Spending

ANSWER = ModelAnswer("yes", "stop", 10, 2)


def test_an_answer_is_there_for_every_process_and_the_first_one_stays(database: str) -> None:
    one, two = PostgresAnswerCache(database), PostgresAnswerCache(database)
    assert one.get("key") is None
    one.put("key", ANSWER)
    two.put("key", ModelAnswer("no", "stop", 1, 1))
    assert two.get("key") == ModelAnswer("yes", "stop", 10, 2, cached=True)
    one.close()
    two.close()


def test_a_budget_is_obeyed_to_the_call_by_many_at_once(database: str) -> None:
    caches = [PostgresAnswerCache(database) for _ in range(4)]

    def book(n: int) -> bool:
        return caches[n % 4].charge("study", Allowance(calls=10))

    with ThreadPoolExecutor(4) as pool:
        booked = list(pool.map(book, range(40)))
    assert sum(booked) == 10
    assert caches[0].spending("study").calls == 10
    for cache in caches:
        cache.close()


def test_what_was_booked_is_replaced_by_what_it_took_and_what_failed_is_given_back(database: str) -> None:
    cache = PostgresAnswerCache(database)
    booking, most = Booking(100, 0.5), Allowance(tokens=250, usd=2.0)
    assert cache.charge("study", most, booking)
    assert cache.charge("study", most, booking)
    assert not cache.charge("study", most, booking)
    cache.put("key", ANSWER, account="study", booked=booking, usd=0.125)
    assert cache.spending("study") == Spending(2, 10, 2, 112, 0.625)
    cache.refund("study", booking)
    assert cache.charge("study", most, booking)
    cache.cancel("study", booking)
    assert cache.spending("study") == Spending(2, 10, 2, 12, 0.125)
    assert cache.spending("nobody") == Spending()
    cache.close()


def test_a_server_that_is_not_there_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(StoreError, match=r"stores\.answers"):
        PostgresAnswerCache("postgresql://nobody@127.0.0.1:1/none").get("key")


def test_answers_expire_by_age_and_by_size_the_oldest_first(database: str) -> None:
    cache = PostgresAnswerCache(database)
    for n in range(4):
        cache.put(f"key{n}", ModelAnswer("x" * 96, "stop", 1, 1))
    assert cache.expire(before_s=0, max_bytes=250) == 2
    assert [cache.get(f"key{n}") is not None for n in range(4)] == [False, False, True, True]
    assert cache.expire(before_s=4e9) == 2
    cache.close()


def test_answers_that_nobody_kept_paid_for_are_removed_and_what_was_spent_stays(database: str) -> None:
    cache = PostgresAnswerCache(database)
    assert cache.charge("study", Allowance())
    cache.put("one", ANSWER, account="study")
    cache.put("two", ModelAnswer("no", "stop", 1, 1), account="other")
    cache.put("three", ModelAnswer("perhaps", "stop", 1, 1))
    assert sorted(cache.texts_but_of({"study"})) == ["no", "perhaps"]
    assert cache.keep_only_of({"study"}) == 2
    assert cache.get("one") is not None
    assert cache.get("two") is None
    assert cache.spending("study").calls == 1
    cache.close()
