"""A store's URL may be shown, its password never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_gateway.store_urls import escaped, is_postgres, password_in, without_password


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://rs:secret@db/route_switch", "postgresql://rs@db/route_switch", "secret"),
        ("postgres://rs:secret@db:5433/d?sslmode=require", "postgres://rs@db:5433/d?sslmode=require", "secret"),
        ("postgresql://rs@db/d", "postgresql://rs@db/d", None),
        ("postgresql+psycopg2://rs:secret@db/d", "postgresql+psycopg2://rs@db/d", "secret"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql", None),
        ("postgresql://db/d?user=rs&password=sec%2Fret&connect_timeout=3", None, "sec/ret"),
        ("postgresql://rs:p%40ss@a,b/d", "postgresql://rs@a,b/d", "p@ss"),
        # Not escaped as it should be, and no part of it is taken for a host.
        ("postgresql://rs:sec/ret@db/d", "postgresql://rs@db/d", "sec/ret"),
        ("postgresql://rs:sec?r@et@db/d", "postgresql://rs@db/d", "sec?r@et"),
        ("sqlite:///data/a:b@c.db", "sqlite:///data/a:b@c.db", None),
    ],
)
def test_a_url_is_split_from_its_password(url: str, shown: str | None, password: str | None) -> None:
    assert password_in(url) == password
    assert without_password(url) == (shown or "postgresql://db/d?user=rs&connect_timeout=3")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_escaped_password_reads_back_and_leaves_nothing_behind(password: str) -> None:
    url = f"postgresql://rs:{escaped(password)}@db/d?sslmode=require"
    assert password_in(url) == password
    assert without_password(url) == "postgresql://rs@db/d?sslmode=require"


def test_postgres_is_told_by_the_scheme() -> None:
    assert [is_postgres(f"{scheme}://h/d") for scheme in ("postgresql", "postgres", "postgresql+psycopg2", "file")] == [
        *(True, True, False, False)
    ]
