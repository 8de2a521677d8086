"""The prompt registry in Postgres: edits in SQL, several publishers, and what is refused."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_prompts import PostgresPrompts
from rs_gateway.domain.errors import RegistryError
from rs_gateway.domain.prompts import ANY_MODEL, Origin, PromptTemplate, PromptText
from rs_gateway.domain.publication import Action, Change
from tests.postgres import Cluster

ORIGIN = Origin(kind="registered", by="ann", at="2026-03-01T12:00:00+00:00")
TEMPLATE = PromptTemplate("support", "Support", (), {"name": "ExactMatch"})
PUBLISHER = """
import sys
from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_prompts import PostgresPrompts
from rs_gateway.domain.errors import VersionConflictError
from rs_gateway.domain.prompts import Origin, PromptText
from rs_gateway.domain.publication import Action, Change

registry, name, won = PostgresPrompts(PostgresPlace(sys.argv[1])), sys.argv[2], 0
for _ in range(20):
    live = registry.get("support").live("m").number
    version = registry.add_version("support", PromptText(name), model=None, origin=Origin("registered", name, "now"))
    try:
        registry.make_live("support", Change(Action.PUBLISH, version.number, None, name, "now", "mine", live))
        won += 1
    except VersionConflictError:
        pass
print(won)
"""


@pytest.fixture
def registry(database: str) -> PostgresPrompts:
    registry = PostgresPrompts(PostgresPlace(database))
    registry.register(TEMPLATE, PromptText("One."), origin=ORIGIN)
    return registry


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def problem_of(registry: PostgresPrompts) -> str:
    before = registry.load()
    assert not before.templates
    return before.problems["support"]


def test_looking_into_an_empty_database_makes_nothing(database: str) -> None:
    registry = PostgresPrompts(PostgresPlace(database))
    assert (registry.load().templates, registry.fingerprint()) == ({}, registry.load().fingerprint)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regnamespace('route_switch')").fetchone() == (None,)


def test_a_version_added_and_made_live_in_sql_is_served_with_its_date(registry: PostgresPrompts, database: str) -> None:
    before = registry.fingerprint()
    execute(
        database,
        """INSERT INTO route_switch.template_versions (template_id, number, content, added_at)
        VALUES ('support', 2, '{"instruction": "By hand."}', '2026-05-04 03:02:01+00')""",
    )
    assert registry.fingerprint() != before
    execute(database, """UPDATE route_switch.templates SET live = '{"serving": {"*": 2}, "history": []}'""")
    version = registry.load().templates["support"].live("m")
    assert version is not None
    assert (version.text.instruction, version.origin.by, version.origin.at) == (
        *("By hand.", "edit by hand", "2026-05-04T03:02:01+00:00"),
    )


def test_every_edit_in_sql_changes_the_fingerprint(registry: PostgresPrompts, database: str) -> None:
    seen = {registry.fingerprint()}
    for statement in (
        "UPDATE route_switch.templates SET facts = facts",
        "UPDATE route_switch.template_versions SET content = content",
        "DELETE FROM route_switch.template_versions WHERE number = 1",
        "DELETE FROM route_switch.templates",
        "TRUNCATE route_switch.templates CASCADE",
    ):
        execute(database, statement)
        seen.add(registry.fingerprint())
    assert len(seen) == 6
    assert registry.load().templates == {}


def test_another_database_has_another_fingerprint(registry: PostgresPrompts, postgres: Cluster) -> None:
    url = postgres.new_database()
    other = PostgresPrompts(PostgresPlace(url))
    other.register(TEMPLATE, PromptText("One."), origin=ORIGIN)
    assert other.fingerprint() != registry.fingerprint()
    postgres.drop_database(url)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE route_switch.templates SET facts = '{}'", "template support, facts: evaluator: the field is missing"),
        ("UPDATE route_switch.templates SET facts = '[1]'", "template support, facts"),
        (
            """UPDATE route_switch.templates SET live = '{"serving": {"*": 7}, "history": []}'""",
            r"template support, live: serving.\*: there is no version 7: name one of 1",
        ),
        (
            """UPDATE route_switch.template_versions SET content = '{"instruction": "Hi", "demo": []}'""",
            "template support, version 1: demo: there is no such field",
        ),
        (
            """UPDATE route_switch.template_versions SET content = '{"instruction": "Hi {who}"}'""",
            "template support, version 1: .*declares no variable who",
        ),
        ("DELETE FROM route_switch.template_versions", "template support: there is no version"),
    ],
)
def test_what_does_not_fit_is_named_and_the_last_good_picture_stays(
    registry: PostgresPrompts, database: str, statement: str, message: str
) -> None:
    good = registry.load()
    execute(database, statement)
    with pytest.raises(RegistryError, match=message):
        registry.get("support")
    state = registry.load(good)
    assert state.templates == good.templates
    assert state.problems.keys() == {"support"}
    assert problem_of(registry) == state.problems["support"]


def test_an_edited_version_is_refused_and_the_remedy_is_named(registry: PostgresPrompts, database: str) -> None:
    execute(
        database,
        "UPDATE route_switch.template_versions SET content = replace(content::text, 'One.', 'Two.')::json",
    )
    with pytest.raises(RegistryError, match=r"version 1: the text does not match its content_hash.*put your text into"):
        registry.get("support")


def test_one_broken_template_does_not_keep_the_others_from_changing(registry: PostgresPrompts, database: str) -> None:
    execute(database, "UPDATE route_switch.templates SET facts = '{}'")
    registry.register(PromptTemplate("other", "Other", (), {"name": "ExactMatch"}), PromptText("Hi."), origin=ORIGIN)
    state = registry.load()
    assert (list(state.templates), list(state.problems)) == (["other"], ["support"])


def test_publishers_in_two_processes_never_both_win_over_the_same_version(
    registry: PostgresPrompts, database: str
) -> None:
    def publish(name: str) -> int:
        arguments = [sys.executable, "-c", PUBLISHER, database, name]
        return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)

    with ThreadPoolExecutor(2) as together:
        won = list(together.map(publish, ["ann", "bob"]))
    registered = registry.get("support")
    assert sorted(registered.versions) == list(range(1, 42))
    published = registered.history[1:]
    assert len(published) == sum(won) > 0
    live = 1
    for change in published:
        assert change.previous == live
        live = change.version or 0
    assert registered.serving == {ANY_MODEL: live}


def test_a_change_that_waits_too_long_for_another_one_is_refused(registry: PostgresPrompts, database: str) -> None:
    impatient = PostgresPrompts(PostgresPlace(database), lock_timeout_s=0.05)
    change = Change(Action.WEIGHT, None, None, "ann", "now", "canary", combination_id="c", weight=0.5)
    with psycopg.connect(database) as other:
        other.execute("SELECT 1 FROM route_switch.templates FOR UPDATE")
        with pytest.raises(RegistryError, match="held by another session"):
            impatient.set_weight("support", change)
    assert impatient.set_weight("support", change).weights == {"c": 0.5}


def test_a_text_that_is_no_unicode_is_refused(registry: PostgresPrompts) -> None:
    with pytest.raises(RegistryError, match="Unicode"):
        registry.add_version("support", PromptText("Fine."), model="\ud800", origin=ORIGIN)
    assert list(registry.get("support").versions) == [1]
