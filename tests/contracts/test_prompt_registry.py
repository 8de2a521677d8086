"""What every prompt registry promises, wherever it keeps its templates."""

import contextlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rs_gateway.adapters.postgres_database import PostgresPlace
from rs_gateway.adapters.postgres_prompts import PostgresPrompts
from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.errors import RegistryError, TemplateInvalidError, VersionConflictError
from rs_gateway.domain.output_formats import OutputFormat
from rs_gateway.domain.placeholders import escape_text
from rs_gateway.domain.ports import PromptRegistry
from rs_gateway.domain.prompts import ANY_MODEL, Demo, Origin, PromptTemplate, PromptText, PromptVersion
from rs_gateway.domain.publication import Action, Change
from tests.fakes import MemoryRegistry

ORIGIN = Origin(kind="registered", by="ann", at="2026-03-01T12:00:00+00:00", note="first try")
FOUND = Origin(kind="study", by="gate", at="2026-03-02T12:00:00+00:00", study_id="s1", comparison_id="c1")
TEMPLATE = PromptTemplate(
    template_id="order-number",
    name="Order number",
    variables=("message", "language"),
    evaluator={"name": "JsonMatch", "fields": {"order": 1.0}, "strict": True},
    default=True,
    reference="captured:order-number@big",
)
TEXT = PromptText(
    "Find the order number.\nAnswer in {language}.",
    user="Message: {message}",
    demos=(Demo('Where is {"A1"}?', '{"order": "A1"}', example_id="e1"), Demo("Hello", "none")),
)

OpenRegistry = Callable[[Path], PromptRegistry]


@pytest.fixture(params=["memory", "files", "postgres"])
def kind(request: pytest.FixtureRequest) -> OpenRegistry:
    if request.param == "memory":
        return lambda _: MemoryRegistry()
    if request.param == "files":
        return PromptFiles
    url = request.getfixturevalue("database")

    def open_empty(_: Path) -> PostgresPrompts:
        with contextlib.suppress(psycopg.errors.UndefinedTable), psycopg.connect(url) as connection:
            connection.execute("DELETE FROM route_switch.templates")
        return PostgresPrompts(PostgresPlace(url))

    return open_empty


@pytest.fixture
def registry(kind: OpenRegistry, tmp_path: Path) -> PromptRegistry:
    return kind(tmp_path / "prompts")


def publish(version: int, *, previous: int | None, model: str | None = None) -> Change:
    return Change(Action.PUBLISH, version, model, "gate", "2026-03-03T12:00:00+00:00", "better", previous, "c1")


def test_a_new_registry_is_empty(registry: PromptRegistry) -> None:
    state = registry.load()
    assert (dict(state.templates), dict(state.problems)) == ({}, {})
    assert state.fingerprint == registry.fingerprint()


def test_a_registered_template_is_live_for_every_model_and_reads_back_as_it_was(registry: PromptRegistry) -> None:
    registered = registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    assert registry.get("order-number") == registered
    assert registry.load().templates == {"order-number": registered}
    assert registered.template == TEMPLATE
    version = registered.live("any model at all")
    assert version is not None
    assert (version.number, version.text, version.model, version.origin) == (1, TEXT, None, ORIGIN)
    assert registered.history == (Change(Action.REGISTER, 1, None, "ann", ORIGIN.at, "first try"),)


def test_a_template_id_is_taken_once(registry: PromptRegistry) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    with pytest.raises(RegistryError, match="'order-number' is registered already"):
        registry.register(TEMPLATE, PromptText("Other"), origin=ORIGIN)
    live = registry.get("order-number").live("m")
    assert live is not None
    assert live.text == TEXT


@pytest.mark.parametrize("template_id", ["", ".hidden", "../escape", "a/b", "with space", "x" * 101])
def test_a_template_id_that_names_no_directory_is_refused(registry: PromptRegistry, template_id: str) -> None:
    with pytest.raises(TemplateInvalidError):
        registry.register(replace(TEMPLATE, template_id=template_id), TEXT, origin=ORIGIN)
    assert not registry.load().templates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PromptText("Say {word}."), "declares no variable word"),
        (PromptText("Fine.", user="Say {word}."), "declares no variable word"),
        (PromptText('Answer as {"order": 1}.'), "literal brace"),
        (PromptText("Half a character: \ud800"), "Unicode"),
        (PromptText("Fine.", demos=(Demo("a", "b"),), output=OutputFormat.LABELLED), "write 'Answer: b'"),
    ],
)
def test_a_text_that_cannot_be_rendered_is_refused(registry: PromptRegistry, text: PromptText, message: str) -> None:
    with pytest.raises(TemplateInvalidError, match=message):
        registry.register(TEMPLATE, text, origin=ORIGIN)
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    with pytest.raises(TemplateInvalidError, match=message):
        registry.add_version("order-number", text, model=None, origin=ORIGIN)
    assert list(registry.get("order-number").versions) == [1]


@pytest.mark.parametrize("variables", [("2nd",), ("a b",), ("a", "a"), ("",)])
def test_a_variable_that_no_placeholder_can_name_is_refused(
    registry: PromptRegistry, variables: tuple[str, ...]
) -> None:
    with pytest.raises(TemplateInvalidError, match="Variable"):
        registry.register(replace(TEMPLATE, variables=variables), PromptText("Hi"), origin=ORIGIN)


def test_an_output_format_reads_back_as_it_was(registry: PromptRegistry) -> None:
    text = replace(TEXT, demos=(Demo("a", '{"answer": "b"}'),), output=OutputFormat.JSON)
    registry.register(TEMPLATE, text, origin=ORIGIN)
    assert registry.get("order-number").versions[1].text == text


def test_a_new_version_is_a_draft_until_it_is_made_live(registry: PromptRegistry) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    version = registry.add_version("order-number", PromptText("Better."), model="small", origin=FOUND)
    assert (version.number, version.model, version.origin) == (2, "small", FOUND)
    registered = registry.get("order-number")
    assert registered.versions[2] == version
    live = registered.live("small")
    assert live is not None
    assert live.number == 1


DRAFTS = (
    PromptVersion(2, TEXT, None, ORIGIN),
    PromptVersion(5, PromptText("Better."), "small", FOUND),
)


def test_drafts_of_an_unknown_template_keep_their_numbers_and_are_not_live(registry: PromptRegistry) -> None:
    assert registry.add_drafts(TEMPLATE, DRAFTS) == {2: 2, 5: 5}
    known = registry.get("order-number")
    assert (known.template, known.versions) == (TEMPLATE, {2: DRAFTS[0], 5: DRAFTS[1]})
    assert (known.serving, known.history) == ({}, ())
    assert registry.make_live("order-number", publish(5, previous=None)).serving == {ANY_MODEL: 5}


def test_drafts_of_a_known_template_follow_its_versions_and_those_that_are_there_stay(registry: PromptRegistry) -> None:
    before = registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    assert registry.add_drafts(replace(TEMPLATE, name="Other"), DRAFTS) == {2: 1, 5: 2}
    after = registry.get("order-number")
    assert after == replace(before, versions={**before.versions, 2: replace(DRAFTS[1], number=2)})
    assert registry.add_drafts(TEMPLATE, DRAFTS) == {2: 1, 5: 2}
    assert registry.get("order-number") == after


def test_of_drafts_that_do_not_all_fit_none_comes_in(registry: PromptRegistry) -> None:
    bad = PromptVersion(6, PromptText("{unknown}"), None, ORIGIN)
    with pytest.raises(TemplateInvalidError):
        registry.add_drafts(TEMPLATE, (*DRAFTS, bad))
    assert registry.load().templates == {}
    before = registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    with pytest.raises(TemplateInvalidError):
        registry.add_drafts(TEMPLATE, (*DRAFTS, bad))
    assert registry.get("order-number") == before


def test_a_publication_for_one_model_leaves_the_others_alone_and_is_recorded(registry: PromptRegistry) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    registry.add_version("order-number", PromptText("Better."), model="small", origin=FOUND)
    change = publish(2, previous=1, model="small")
    registered = registry.make_live("order-number", change)
    assert registry.get("order-number") == registered
    assert registered.serving == {ANY_MODEL: 1, "small": 2}
    assert [version.number for model in ("small", "big") if (version := registered.live(model))] == [2, 1]
    assert registered.history[-1] == change
    assert len(registered.history) == 2


def test_a_rollback_is_a_change_like_any_other(registry: PromptRegistry) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    registry.add_version("order-number", PromptText("Worse."), model=None, origin=FOUND)
    registry.make_live("order-number", publish(2, previous=1))
    back = Change(Action.ROLLBACK, 1, None, "ann", "2026-03-04T12:00:00+00:00", "it was worse", previous=2)
    registered = registry.make_live("order-number", back)
    assert registered.serving == {ANY_MODEL: 1}
    assert [change.action for change in registered.history] == [Action.REGISTER, Action.PUBLISH, Action.ROLLBACK]


def test_a_weight_set_at_run_time_is_kept_recorded_and_can_be_taken_back(registry: PromptRegistry) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    at = "2026-03-04T12:00:00+00:00"
    less = Change(Action.WEIGHT, None, None, "ann", at, "canary", combination_id="small", weight=0.25)
    assert registry.set_weight("order-number", less).weights == {"small": 0.25}
    back = Change(Action.WEIGHT, None, None, "ann", at, "done", combination_id="small")
    registered = registry.set_weight("order-number", back)
    assert registered.weights == {}
    assert registered.history[1:] == registry.get("order-number").history[1:] == (less, back)
    assert registered.serving == {ANY_MODEL: 1}, "a weight changes nothing else"


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(registry: PromptRegistry, weight: float) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    wrong = Change(Action.WEIGHT, None, None, "ann", "2026-03-04", "why not", combination_id="small", weight=weight)
    with pytest.raises(RegistryError):
        registry.set_weight("order-number", wrong)
    assert len(registry.get("order-number").history) == 1


def test_a_publication_that_expects_another_live_version_is_refused_and_told_which_is_live(
    registry: PromptRegistry,
) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    registry.add_version("order-number", PromptText("A."), model=None, origin=FOUND)
    registry.add_version("order-number", PromptText("B."), model=None, origin=FOUND)
    registry.make_live("order-number", publish(2, previous=1))
    with pytest.raises(VersionConflictError, match="Version 2 of template 'order-number' is live"):
        registry.make_live("order-number", publish(3, previous=1))
    with pytest.raises(VersionConflictError, match="'small'"):
        registry.make_live("order-number", publish(3, previous=None, model="small"))
    assert registry.get("order-number").serving == {ANY_MODEL: 2}


@pytest.mark.parametrize("version", [0, 2, None])
def test_a_version_that_does_not_exist_cannot_go_live(registry: PromptRegistry, version: int | None) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    with pytest.raises(RegistryError, match="has no version"):
        registry.make_live("order-number", replace(publish(1, previous=1), version=version))


def test_an_unknown_template_is_refused(registry: PromptRegistry) -> None:
    for attempt in (
        lambda: registry.get("nothing"),
        lambda: registry.add_version("nothing", TEXT, model=None, origin=ORIGIN),
        lambda: registry.make_live("nothing", publish(1, previous=None)),
    ):
        with pytest.raises(RegistryError, match="no template 'nothing'"):
            attempt()
    assert not registry.load().templates


def test_the_fingerprint_changes_with_every_change_and_only_then(registry: PromptRegistry) -> None:
    seen = [registry.fingerprint()]
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    seen.append(registry.fingerprint())
    registry.add_version("order-number", PromptText("A."), model=None, origin=FOUND)
    seen.append(registry.fingerprint())
    registry.make_live("order-number", publish(2, previous=1))
    seen.append(registry.fingerprint())
    assert len(set(seen)) == 4
    registry.get("order-number")
    assert registry.load().fingerprint == registry.fingerprint() == seen[-1]


def test_a_picture_that_was_taken_does_not_change_afterwards(registry: PromptRegistry) -> None:
    registry.register(TEMPLATE, TEXT, origin=ORIGIN)
    state = registry.load()
    registry.add_version("order-number", PromptText("A."), model=None, origin=FOUND)
    registry.make_live("order-number", publish(2, previous=1))
    assert list(state.templates["order-number"].versions) == [1]
    assert state.templates["order-number"].serving == {ANY_MODEL: 1}
    assert registry.load(state).templates["order-number"].serving == {ANY_MODEL: 2}


AWKWARD = st.sampled_from(
    [
        *(" ", "\t", "\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\ufeff", "\x00", "\x7f", "\u00a0", "\ufffe"),
        *("- ", "# ", ": ", "? ", "| ", "> ", "---", "...", "%", "@", "`", "'", '"', "\\", "!", "&a", "*a", "<<", "="),
        *(
            "null",
            "~",
            "yes",
            "1",
            "0x1f",
            "1e3",
            ".inf",
            "2026-01-01",
            "12:30:00",
            "{",
            "}",
            "[",
            "]",
            "😀",
            "é",
            "日本",
        ),
    ]
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(AWKWARD, max_size=12).map("".join),
    st.text("a \n\t", max_size=12),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(instruction=TEXTS, user=st.none() | TEXTS, demos=st.lists(st.tuples(TEXTS, TEXTS), max_size=3), note=TEXTS)
def test_any_text_reads_back_exactly(
    kind: OpenRegistry, instruction: str, user: str | None, demos: list[tuple[str, str]], note: str
) -> None:
    text = PromptText(
        escape_text(instruction), None if user is None else escape_text(user), tuple(Demo(*demo) for demo in demos)
    )
    with tempfile.TemporaryDirectory() as folder:
        registry = kind(Path(folder))
        registry.register(replace(TEMPLATE, name=note), text, origin=replace(ORIGIN, note=note))
        read = registry.get("order-number")
    assert (read.template.name, read.versions[1].text, read.versions[1].origin.note) == (note, text, note)
    assert read.history[0].reason == note or not note
