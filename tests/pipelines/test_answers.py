"""The answer cache: what is stored stays, whoever asks and whatever dies."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rs_gateway.domain.errors import SchemaTooNewError, StoreError
from rs_pipelines.answers import AnswerCache, ModelAnswer
from rs_pipelines.spending import Spending
from tests.pipelines.parcels import cache_at

ANSWER = ModelAnswer("Paris", "stop", 12, 1)


def test_an_answer_is_there_after_reopening_and_says_that_it_is_cached(tmp_path: Path) -> None:
    cache_at(tmp_path).put("key", ANSWER)
    found = cache_at(tmp_path).get("key")
    assert found == ModelAnswer("Paris", "stop", 12, 1, cached=True)


def test_an_unknown_key_has_no_answer(tmp_path: Path) -> None:
    assert cache_at(tmp_path).get("key") is None


def test_the_first_answer_to_a_key_stays(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.put("key", ANSWER)
    cache.put("key", ModelAnswer("Lyon", "stop", 12, 1))
    found = cache.get("key")
    assert found is not None
    assert found.text == "Paris"


def test_tokens_that_the_provider_did_not_count_stay_unknown(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.put("key", ModelAnswer("Paris", None, None, None))
    assert cache.get("key") == ModelAnswer("Paris", None, None, None, cached=True)


def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    AnswerCache(tmp_path / "answers.db").close()
    with sqlite3.connect(tmp_path / "answers.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SchemaTooNewError, match="99"):
        cache_at(tmp_path)


def test_a_file_that_is_no_database_is_refused_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "answers.db").write_bytes(b"no database " * 500)
    with pytest.raises(StoreError, match="answer cache"):
        cache_at(tmp_path)


def test_a_cache_of_the_first_schema_keeps_its_answers_and_accounts(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "answers.db")) as old:
        old.execute(
            "CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT, input_tokens INTEGER,"
            " output_tokens INTEGER) WITHOUT ROWID"
        )
        old.execute(
            "CREATE TABLE spending (account TEXT PRIMARY KEY, calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL,"
            " output_tokens INTEGER NOT NULL)"
        )
        old.execute("INSERT INTO answers VALUES ('k', 'hello', 'stop', 3, 4)")
        old.execute("INSERT INTO spending VALUES ('study', 1, 3, 4)")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    cache = cache_at(tmp_path)
    assert cache.get("k") == ModelAnswer("hello", "stop", 3, 4, cached=True)
    assert cache.spending("study") == Spending(1, 3, 4, booked_tokens=7)


def test_a_folder_in_the_place_of_the_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"The answer cache .* cannot be used"):
        AnswerCache(tmp_path)
