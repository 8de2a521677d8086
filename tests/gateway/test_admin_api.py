"""The admin API over the wire: every route, who may use it, and what it changes in a gateway that is serving."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import yaml

from rs_gateway.adapters.prompt_files import PromptFiles
from rs_gateway.domain.prompts import Demo
from rs_gateway.domain.publication import Action, Change
from tests import upstream as wire
from tests.gateway.keyed import Keyed, issue, keyed_gateway
from tests.gateway.test_chat import HELP
from tests.running import eventually, register
from tests.upstream import Upstream

NEW = {"id": "orders", "instruction": "You sell {what}."}
ROUTES = (
    ("GET", "/templates"), ("GET", "/templates/support"), ("POST", "/templates"),
    ("POST", "/templates/support/versions"), ("POST", "/templates/support/live"),
    ("POST", "/templates/support/rollback"), ("PUT", "/templates/support/weights"),
    ("POST", "/reload"), ("GET", "/keys"), ("POST", "/keys"), ("GET", "/keys/x"), ("PATCH", "/keys/x"),
    ("DELETE", "/keys/x"),
)  # fmt: skip


@contextlib.contextmanager
def staged(folder: Path) -> Generator[Keyed]:
    """Two combinations of template `support`; the registry is looked at by itself once a minute only."""
    up = Upstream([wire.answers("ok")])
    combinations = [
        {"id": name, "template_id": "support", "model": model, "provider": "p1"}
        for name, model in (("a", "gpt-4"), ("b", "gpt-5"))
    ]
    gateway = {"strategy": "weighted", "refresh_seconds": 60, "combinations": combinations}
    with keyed_gateway(folder, up, gateway=gateway) as keyed:
        yield keyed


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Keyed]:
    with staged(tmp_path) as keyed:
        yield keyed


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """One gateway for all tests that change nothing."""
    with staged(tmp_path_factory.mktemp("untouched")) as keyed:
        yield keyed


def done(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    return response.json()


def refused(response: httpx.Response, status: int, words: str = "") -> dict[str, Any]:
    error = done(response, status)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    return error


def version(stage: Keyed, instruction: str, **fields: Any) -> int:
    """A new draft."""
    body = {"instruction": instruction, "drops_variables": True, **fields}
    return done(stage.admin("POST", "/templates/support/versions", body), 201)["version"]


def live(stage: Keyed, number: int, **fields: Any) -> httpx.Response:
    return stage.admin("POST", "/templates/support/live", {"version": number, "reason": "better", **fields})


def rollback(stage: Keyed, **fields: Any) -> httpx.Response:
    return stage.admin("POST", "/templates/support/rollback", {"reason": "worse", **fields})


def served(stage: Keyed, model: str = "support") -> tuple[str, str]:
    """Which version answers now, and its system text."""
    response = stage.ask("boss", {**HELP, "model": model})
    assert response.status_code == 200, response.text
    return response.headers["x-route-switch-version"], stage.upstream.requests[-1]["messages"][0]["content"]


def weights(stage: Keyed) -> dict[str, tuple[float, bool]]:
    """What `/status` shows: combination -> weight, and whether it was overridden."""
    shown = done(stage.request("GET", "/status", key="boss"))["templates"]["support"]["combinations"]
    return {c["combination_id"]: (c["weight"], c["weight_overridden"]) for c in shown}


def chosen(stage: Keyed, n: int) -> Counter[str]:
    return Counter(
        stage.ask("boss", {**HELP, "model": "support"}).headers["x-route-switch-combination"] for _ in range(n)
    )


def test_every_route_needs_a_key_and_an_admin_one(stage: Keyed) -> None:
    stage.secrets["shop"] = issue(stage.gateway.folder, "shop").secret
    eventually(lambda: stage.ask("shop").status_code == 200)
    before = done(stage.admin("GET", "/templates/support"))
    for method, path in ROUTES:
        assert refused(stage.request(method, f"/admin{path}", json={}), 401)["type"] == "authentication_error"
        error = refused(stage.request(method, f"/admin{path}", key="shop", json={}), 403, "--admin")
        assert (error["type"], error["code"]) == ("permission_error", "not_allowed")
    assert done(stage.admin("GET", "/templates/support")) == before


def test_a_template_is_registered_shown_listed_and_served_at_once(stage: Keyed) -> None:
    shown = done(stage.admin("POST", "/templates", {**NEW, "store": "metrics", "evaluator": "ExactMatch"}), 201)
    assert shown["template"]["variables"] == ["what"]
    assert shown["template"]["store"] == "metrics"
    assert shown["serving"] == {"*": 1}
    assert done(stage.admin("GET", "/templates/orders")) == shown
    listed = {t["template_id"]: t for t in done(stage.admin("GET", "/templates"))}
    assert listed["orders"]["versions"] == 1
    assert set(listed) == {"orders", "support"}
    assert "no enabled combination" in done(stage.request("GET", "/status", key="boss"))["unavailable"]["orders"]


def test_an_output_format_is_registered_shown_and_served(stage: Keyed) -> None:
    number = version(stage, "Answer in a line.", output="labelled")
    assert live(stage, number).status_code == 200
    shown = done(stage.admin("GET", "/templates/support"))["versions"]
    assert [v["text"]["output"] for v in shown] == ["bare", "labelled"]
    assert version(stage, "Answer in a line, please.") == 3
    assert done(stage.admin("GET", "/templates/support"))["versions"][2]["text"]["output"] == "labelled"
    wrong = stage.admin("POST", "/templates/support/versions", {"instruction": "x", "output": "xml"})
    assert "'bare', 'labelled' or 'json'" in refused(wrong, 400)["message"]


CLASSIFY = "Classify the customer's message as billing, delivery or other. Answer with one word."
TICKETS = {
    "id": "tickets", "instruction": CLASSIFY, "user": "{message}", "output": "labelled",
    "demos": [{"user": "Where is it?", "assistant": "Answer: delivery"}],
}  # fmt: skip
OF_LIVE = {name: TICKETS[name] for name in ("user", "demos", "output")}


def draft(stage: Keyed, body: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """A new version of `tickets`: its text without the demos' origins, and what it took over."""
    added = done(stage.admin("POST", "/templates/tickets/versions", body), 201)
    text = done(stage.admin("GET", "/templates/tickets"))["versions"][added["version"] - 1]["text"]
    demos = [{name: demo[name] for name in ("user", "assistant")} for demo in text["demos"]]
    return {**text, "demos": demos}, added["taken_over"]


def test_what_a_new_version_omits_is_taken_over_from_the_live_one(stage: Keyed) -> None:
    done(stage.admin("POST", "/templates", TICKETS), 201)
    text, taken_over = draft(stage, {"instruction": "Sort it."})
    assert text == {"instruction": "Sort it.", **OF_LIVE, "nearest": 0}
    assert taken_over == {"version": 1, "fields": ["user", "demos", "output"]}
    text, taken_over = draft(stage, {"instruction": "Sort it.", "user": "Message: {message}", "demos": []})
    assert text == {
        **{"instruction": "Sort it.", "user": "Message: {message}", "demos": [], "output": "labelled"},
        "nearest": 0,
    }
    assert taken_over == {"version": 1, "fields": ["output"]}


def test_a_pool_of_demos_keeps_how_many_of_them_are_shown_unless_it_is_replaced(stage: Keyed) -> None:
    pool = [{"user": f"message {n}", "assistant": "refund"} for n in range(5)]
    done(stage.admin("POST", "/templates", {**TICKETS, "output": "bare", "demos": pool, "nearest": 2}), 201)
    text, taken_over = draft(stage, {"instruction": "Sort it."})
    assert (len(text["demos"]), text["nearest"]) == (5, 2)
    assert taken_over == {"version": 1, "fields": ["user", "demos", "nearest"]}
    text, _ = draft(stage, {"instruction": "Sort it.", "demos": pool[:2]})
    assert (len(text["demos"]), text["nearest"]) == (2, 0)
    wrong = stage.admin("POST", "/templates/tickets/versions", {"instruction": "Sort it.", "nearest": 5})
    assert wrong.status_code == 400
    assert "there are 5 demos to choose from" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("none", [None, []])
def test_null_or_an_empty_list_clears_what_the_live_version_has(stage: Keyed, none: Any) -> None:
    done(stage.admin("POST", "/templates", TICKETS), 201)
    body = {"instruction": "Sort {message}", "user": None, "demos": none, "output": "bare"}
    text, taken_over = draft(stage, body)
    assert text == {"instruction": "Sort {message}", "user": None, "demos": [], "output": "bare", "nearest": 0}
    assert taken_over is None


def test_a_new_version_for_a_model_takes_over_from_the_one_that_is_live_for_it(stage: Keyed) -> None:
    registry = PromptFiles(stage.gateway.folder / "data/prompts")
    done(stage.admin("POST", "/templates", TICKETS), 201)
    draft(stage, {"instruction": CLASSIFY, "user": "For five: {message}", "demos": [], "model": "gpt-5"})
    registry.make_live("tickets", Change(Action.PUBLISH, 2, "gpt-5", "gate", "now", "proven", previous=1))
    text, taken_over = draft(stage, {"instruction": "Sort it.", "model": "gpt-5"})
    assert (text["user"], text["demos"], taken_over["version"]) == ("For five: {message}", [], 2)
    for body in ({"model": "gpt-4"}, {"model": None}, {}):
        text, taken_over = draft(stage, {"instruction": "Sort it.", **body})
        assert (text["user"], taken_over["version"]) == ("{message}", 1)


def test_demos_that_are_taken_over_keep_the_examples_that_they_came_from(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        made = register(tmp_path, "tickets", instruction="Sort it.", demos=(Demo("Where?", "delivery", "e1"),))
        done(stage.admin("POST", "/templates/tickets/versions", {"instruction": "Sort it well."}), 201)
        assert made.get("tickets").versions[2].text.demos == (Demo("Where?", "delivery", "e1"),)


def test_demos_are_not_taken_over_into_another_output_format(stage: Keyed) -> None:
    done(stage.admin("POST", "/templates", TICKETS), 201)
    body = {"instruction": "Sort it.", "output": "bare"}
    error = refused(stage.admin("POST", "/templates/tickets/versions", body), 400, "'labelled', not 'bare'")
    assert error["param"] == "demos"
    draft(stage, {**body, "demos": []})


def test_a_variable_of_the_live_version_is_dropped_only_when_that_is_said(stage: Keyed) -> None:
    done(stage.admin("POST", "/templates", TICKETS), 201)
    body = {"instruction": "Sort it.", "user": None}
    error = refused(stage.admin("POST", "/templates/tickets/versions", body), 400, "The live version uses message")
    assert error["param"] == "drops_variables"
    assert len(done(stage.admin("GET", "/templates/tickets"))["versions"]) == 1
    text, taken_over = draft(stage, {**body, "drops_variables": True})
    assert text["user"] is None
    assert taken_over["fields"] == ["demos", "output"]


def test_of_many_who_register_the_same_id_at_once_exactly_one_wins(stage: Keyed) -> None:
    answers = list[httpx.Response]()
    start = threading.Barrier(8)

    def register(number: int) -> None:
        start.wait()
        answers.append(stage.admin("POST", "/templates", {**NEW, "instruction": f"I am {number}."}))

    threads = [threading.Thread(target=register, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 7}
    (winner,) = (answer.json() for answer in answers if answer.status_code == 201)
    assert done(stage.admin("GET", "/templates/orders")) == winner
    for answer in answers:
        if answer.status_code == 409:
            assert refused(answer, 409)["code"] == "template_exists"


def test_a_version_is_a_draft_until_it_is_made_live_and_then_serves_at_once(stage: Keyed) -> None:
    number = version(stage, "Be brief, {customer_name}.", note="shorter")
    assert served(stage) == ("1", "You help Jordan.")
    shown = done(live(stage, number))
    assert shown["serving"] == {"*": 2}
    assert served(stage) == ("2", "Be brief, Jordan.")
    assert shown["versions"][1]["origin"]["note"] == "shorter"


def test_a_version_can_be_live_for_one_model_alone(stage: Keyed) -> None:
    done(live(stage, version(stage, "For five: {customer_name}.", model="gpt-5"), model="gpt-5"))
    assert served(stage, "gpt-4")[0] == "1"
    assert served(stage, "gpt-5")[0] == "2"
    done(rollback(stage, model="gpt-5"))
    assert served(stage, "gpt-5")[0] == "1"
    refused(rollback(stage, model="gpt-5"), 400, "gpt-5")


def test_two_rollbacks_go_back_two_versions_and_no_further_than_the_first(stage: Keyed) -> None:
    for text in ("Two.", "Three."):
        done(live(stage, version(stage, text)))
    assert [served(stage)[0], done(rollback(stage))["serving"], done(rollback(stage))["serving"]] == [
        "3",
        {"*": 2},
        {"*": 1},
    ]
    assert served(stage) == ("1", "You help Jordan.")
    error = refused(rollback(stage), 400, "no earlier version")
    assert error["code"] == "invalid_request"
    done(live(stage, 3))
    assert done(rollback(stage))["serving"] == {"*": 1}


def test_a_rollback_after_going_back_by_hand_does_not_swing_to_and_fro(stage: Keyed) -> None:
    done(live(stage, version(stage, "Two.")))
    done(live(stage, 1))
    assert [done(rollback(stage))["serving"]["*"] for _ in range(2)] == [2, 1]
    refused(rollback(stage), 400)


def pinned(stage: Keyed, *models: str) -> None:
    """Versions 2, 3 ... as `optimize` publishes them: each live for one model alone."""
    for model in models:
        done(live(stage, version(stage, f"For {model}: {{customer_name}}.", model=model), model=model))


def history(stage: Keyed) -> list[dict[str, Any]]:
    return done(stage.admin("GET", "/templates/support"))["history"]


def test_a_rollback_without_model_names_the_one_that_has_a_version_of_its_own(stage: Keyed) -> None:
    pinned(stage, "gpt-5")
    error = refused(rollback(stage), 400, "gpt-5 has a version of its own (2)")
    assert error["param"] == "model"
    assert "by its number" not in error["message"]
    assert done(rollback(stage, model="gpt-5"))["serving"] == {"*": 1, "gpt-5": 1}
    refused(rollback(stage), 400, "by its number")  # gpt-5 is at its first one too


def test_a_rollback_without_model_lists_all_that_have_versions_of_their_own(stage: Keyed) -> None:
    pinned(stage, "gpt-4", "gpt-5")
    refused(rollback(stage), 400, "gpt-4 (2), gpt-5 (3). Name one with `--model MODEL`, or over HTTP `model`")
    assert len(history(stage)) == 3


def test_making_live_what_is_live_is_refused_and_leaves_no_trace(stage: Keyed) -> None:
    refused(live(stage, 1), 409, "is live for every model without a version of its own already")
    pinned(stage, "gpt-5")
    before = history(stage)
    error = refused(live(stage, 1), 409, "Models with a version of their own: gpt-5 (2)")
    assert (error["code"], error["param"]) == ("already_live", "version")
    refused(live(stage, 1, previous=1), 409, "already")
    refused(live(stage, 2, model="gpt-5"), 409, "is live for 'gpt-5' already: nothing changes.")
    assert history(stage) == before
    done(live(stage, 1, model="gpt-4"))  # a version of its own is a change, though it is the same one
    assert served(stage, "gpt-4")[0] == "1"


def test_a_change_for_every_model_says_who_keeps_a_version_of_its_own(stage: Keyed) -> None:
    pinned(stage, "gpt-5")
    assert done(live(stage, version(stage, "Three, {customer_name}.")))["still_pinned"] == {"gpt-5": 2}
    assert done(rollback(stage))["still_pinned"] == {"gpt-5": 2}
    assert "still_pinned" not in done(rollback(stage, model="gpt-5"))


def test_a_star_is_every_model_as_serving_shows_it(stage: Keyed) -> None:
    assert done(live(stage, version(stage, "Two, {customer_name}."), model="*"))["history"][-1]["model"] is None
    assert done(rollback(stage, model="*"))["serving"] == {"*": 1}


@pytest.mark.parametrize("path", ["live", "rollback"])
def test_a_model_that_the_template_does_not_run_on_is_refused(stage: Keyed, path: str) -> None:
    body = {"version": 1, "model": "gpt-6", "reason": "x"} if path == "live" else {"model": "gpt-6", "reason": "x"}
    words = "does not run on 'gpt-6'; it runs on gpt-4, gpt-5."
    assert refused(stage.admin("POST", f"/templates/support/{path}", body), 400, words)["param"] == "model"
    assert len(history(stage)) == 1


def test_a_version_of_a_model_that_no_longer_runs_can_be_changed_and_taken_back(stage: Keyed) -> None:
    registry = PromptFiles(stage.gateway.folder / "data/prompts")
    version(stage, "For six: {customer_name}.")
    registry.make_live("support", Change(Action.PUBLISH, 2, "gpt-6", "gate", "now", "proven", previous=1))
    assert done(rollback(stage, model="gpt-6"))["serving"] == {"*": 1, "gpt-6": 1}
    assert done(live(stage, 2, model="gpt-6"))["serving"] == {"*": 1, "gpt-6": 2}


def test_a_template_that_runs_nowhere_goes_live_for_every_model_only(stage: Keyed) -> None:
    done(stage.admin("POST", "/templates", NEW), 201)
    body = {"version": 1, "model": "gpt-4", "reason": "x"}
    refused(stage.admin("POST", "/templates/orders/live", body), 400, "it runs on none: no combination has it.")


def test_history_says_who_did_what_and_why(stage: Keyed) -> None:
    done(live(stage, version(stage, "Two."), reason="the first was rude"))
    done(rollback(stage, reason="the second was terse"))
    done(stage.admin("PUT", "/templates/support/weights", {"weights": {"b": 3}, "reason": "b is cheaper"}))
    (boss,) = done(stage.admin("GET", "/keys"))
    history = done(stage.admin("GET", "/templates/support"))["history"]
    assert [(c["action"], c["version"], c["previous"], c["reason"]) for c in history[1:]] == [
        ("publish", 2, 1, "the first was rude"),
        ("rollback", 1, 2, "the second was terse"),
        ("weight", None, None, "b is cheaper"),
    ]
    assert {c["by"] for c in history[1:]} == {f"key boss ({boss['key_id']})"}
    assert (history[3]["combination_id"], history[3]["weight"]) == ("b", 3)


def test_who_decided_on_an_old_picture_is_told_to_look_again(stage: Keyed) -> None:
    for text in ("Two.", "Three."):
        version(stage, text)
    done(live(stage, 2, previous=1))
    assert refused(live(stage, 3, previous=1), 409, "Version 2")["code"] == "version_conflict"
    assert served(stage)[0] == "2"


def test_weights_shift_traffic_show_as_overridden_and_null_takes_them_back(stage: Keyed) -> None:
    assert chosen(stage, 20) == {"a": 10, "b": 10}
    shown = done(stage.admin("PUT", "/templates/support/weights", {"weights": {"a": 0, "b": 2.5}, "reason": "drain a"}))
    assert shown["weights"] == {"a": 0, "b": 2.5}
    assert weights(stage) == {"a": (0, True), "b": (2.5, True)}
    assert chosen(stage, 20) == {"b": 20}
    done(stage.admin("PUT", "/templates/support/weights", {"weights": {"a": None, "b": None}, "reason": "done"}))
    assert weights(stage) == {"a": (1, False), "b": (1, False)}
    assert chosen(stage, 20) == {"a": 10, "b": 10}


@pytest.mark.parametrize(
    "body",
    [
        {"weights": {"a": -1}, "reason": "x"}, {"weights": {"a": "much"}, "reason": "x"},
        {"weights": {}, "reason": "x"}, {"weights": {"a": 1}}, {"weights": {"a": 1}, "reason": ""},
        {"weights": {"a": 1, "z": 1}, "reason": "x"},
        {"weights": {"a": 1}, "reason": "x", "why": "y"}, [], None,
    ],
)  # fmt: skip
def test_weights_that_make_no_sense_change_nothing(untouched: Keyed, body: Any) -> None:
    refused(untouched.admin("PUT", "/templates/support/weights", body), 400)
    assert weights(untouched) == {"a": (1, False), "b": (1, False)}


def test_a_weight_that_is_no_number_is_refused(untouched: Keyed) -> None:
    for number in ("NaN", "Infinity", "1e999"):
        body = f'{{"weights": {{"a": {number}}}, "reason": "x"}}'
        headers = {"content-type": "application/json"}
        response = untouched.request(
            "PUT", "/admin/templates/support/weights", key="boss", content=body, headers=headers
        )
        refused(response, 400)


LONG = "x" * 300_000


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/templates/{LONG[:30_000]}", None),
        ("GET", f"/keys/{LONG[:30_000]}", None),
        ("POST", "/templates", {**NEW, "id": LONG}),
        ("POST", "/templates", {**NEW, "reference": LONG}),
        ("POST", "/templates", {**NEW, "variables": ["1" + LONG]}),
        ("POST", "/templates", {**NEW, "variables": [LONG, LONG]}),
        ("POST", "/templates/support/versions", {"instruction": f"{{{LONG}}}"}),
        ("POST", "/templates/support/live", {"version": 1, "reason": LONG}),
        ("POST", "/templates/support/rollback", {"model": LONG, "reason": "x"}),
        ("POST", "/templates/support/live", {"version": 1, "model": LONG, "reason": "x"}),
        ("PUT", "/templates/support/weights", {"weights": {LONG: 1}, "reason": "x"}),
        ("POST", "/keys", {"name": LONG}),
        ("POST", "/keys", {"name": "x", "limits": {"requests_per_minute": 10**4000}}),
        ("POST", "/keys", {"name": "x", "limits": {"budget_period": LONG}}),
        ("POST", "/keys", {"name": "x", "expires_at": LONG}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_error_does_not_repeat_a_large_value(untouched: Keyed, method: str, path: str, body: Any) -> None:
    response = untouched.admin(method, path, body)
    assert response.status_code in (400, 404)
    assert len(response.content) < 1_000


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/templates/nowhere", None, 404),
        ("GET", "/templates/..%2f..%2fetc", None, 404),
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/templates/support", None, 405),
        ("POST", "/templates/nowhere/versions", {"instruction": "x"}, 404),
        ("POST", "/templates/nowhere/live", {"version": 1, "reason": "x"}, 404),
        ("POST", "/templates/support/live", {"version": 9, "reason": "x"}, 404),
        ("POST", "/templates/nowhere/rollback", {"reason": "x"}, 404),
        ("PUT", "/templates/nowhere/weights", {"weights": {"a": 1}, "reason": "x"}, 404),
        ("POST", "/templates/support/live", {"version": 1}, 400),
        ("POST", "/templates/support/live", {"version": 0, "reason": "x"}, 400),
        ("POST", "/templates/support/live", {"version": 1, "reason": "\ud800"}, 400),
        ("POST", "/templates/support/rollback", {}, 400),
        ("POST", "/templates/support/rollback", {"reason": "x", "mode": "hard"}, 400),
        ("POST", "/templates/support/versions", {}, 400),
        ("POST", "/templates/support/versions", {"instruction": "{undeclared}"}, 400),
        ("POST", "/templates/support/versions", {"instruction": "a { b"}, 400),
        ("POST", "/templates/support/versions", {"instruction": "x", "demos": [{"user": "only"}]}, 400),
        ("POST", "/templates", {"id": "../up", "instruction": "x"}, 400),
        ("POST", "/templates", {"id": "a b", "instruction": "x"}, 400),
        ("POST", "/templates", {"id": "t"}, 400),
        ("POST", "/templates", {**NEW, "store": "some"}, 400),
        ("POST", "/templates", {**NEW, "reference": "elsewhere"}, 400),
        ("POST", "/templates", {**NEW, "surprise": 1}, 400),
        ("POST", "/templates", {**NEW, "\ud800": 1}, 400),
        ("POST", "/reload", [1], 400),
        ("GET", "/keys/nobody", None, 404),
        ("PATCH", "/keys/nobody", {"name": "x"}, 404),
        ("DELETE", "/keys/nobody", None, 404),
        ("POST", "/keys", {}, 400),
        ("POST", "/keys", {"name": " "}, 400),
        ("POST", "/keys", {"name": "a\nb"}, 400),
        ("POST", "/keys", {"name": "x", "admin": None}, 400),
        ("POST", "/keys", {"name": "x", "templates": [""]}, 400),
        ("POST", "/keys", {"name": "x", "models": "all"}, 400),
        ("POST", "/keys", {"name": "x", "limits": {"concurrency": 0}}, 400),
        ("POST", "/keys", {"name": "x", "limits": {"requests_per_minute": 10**30}}, 400),
        ("POST", "/keys", {"name": "x", "limits": {"budget_usd": -1}}, 400),
        ("POST", "/keys", {"name": "x", "limits": {"budget_period": "year"}}, 400),
        ("POST", "/keys", {"name": "x", "limits": {"burst": 1}}, 400),
        ("POST", "/keys", {"name": "x", "store": "some"}, 400),
        ("POST", "/keys", {"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, 400),
        ("POST", "/keys", {"name": "x", "expires_at": "0001-01-01T00:00:00+14:00"}, 400),
        ("POST", "/keys", {"name": "x", "expires_at": "9999-12-31T23:59:59-14:00"}, 400),
        ("POST", "/keys", {"name": "x", "expires_at": "2030-01-01T00:00:00"}, 400),
        ("POST", "/keys", {"name": "x", "expires_at": "tomorrow"}, 400),
    ],
)
def test_what_is_wrong_is_refused_in_openais_shape(
    untouched: Keyed, method: str, path: str, body: Any, status: int
) -> None:
    content = None if body is None else json.dumps(body)
    headers = {"content-type": "application/json"}
    refused(untouched.request(method, f"/admin{path}", key="boss", content=content, headers=headers), status)
    assert [t["versions"] for t in done(untouched.admin("GET", "/templates"))] == [1]
    assert [k["name"] for k in done(untouched.admin("GET", "/keys"))] == ["boss"]


@pytest.mark.parametrize("value", ["yes", "true", 1])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/templates", NEW, "default"),
        ("/templates/support/versions", {"instruction": "x"}, "drops_variables"),
        ("/keys", {"name": "x"}, "admin"),
        ("/keys", {"name": "x", "limits": {}}, "limits.allow_unpriced"),
    ],
)
def test_true_and_false_are_written_as_json_has_them(
    untouched: Keyed, path: str, body: dict[str, Any], field: str, value: object
) -> None:
    *parents, name = field.split(".")
    inner = {name: value}
    body = {**body, **({parents[0]: inner} if parents else inner)}
    assert field in refused(untouched.admin("POST", path, body), 400, "a valid boolean")["param"]


@pytest.mark.parametrize("value", ["2", True, 2.0, 1.5])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/templates", {**NEW, "demos": [{"user": "a", "assistant": "b"}] * 5}, "nearest"),
        (
            "/templates/support/versions",
            {"instruction": "x", "demos": [{"user": "a", "assistant": "b"}] * 5},
            "nearest",
        ),
        ("/templates/support/live", {"reason": "x"}, "version"),
        ("/templates/support/live", {"version": 1, "reason": "x"}, "previous"),
        ("/keys", {"name": "x", "limits": {}}, "limits.concurrency"),
    ],
)
def test_a_whole_number_is_written_as_one(
    untouched: Keyed, path: str, body: dict[str, Any], field: str, value: object
) -> None:
    *parents, name = field.split(".")
    inner = {name: value}
    body = {**body, **({parents[0]: inner} if parents else inner)}
    assert field in refused(untouched.admin("POST", path, body), 400, "a valid integer")["param"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"id": "t", "instruction": "x"', b"[" * 5000])
def test_a_body_that_is_no_json_is_refused(untouched: Keyed, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    refused(untouched.request("POST", "/admin/templates", key="boss", content=content, headers=headers), 400)


def test_what_nobody_expected_is_a_500_in_openais_shape(stage: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rs_gateway.api.admin._facts", breaks)
    logged = structlog.testing.LogCapture()  # and no picture of the traceback, which takes seconds to draw
    monkeypatch.setattr("rs_gateway.api.edge.log", structlog.wrap_logger(None, processors=[logged]))
    error = refused(stage.admin("GET", "/templates"), 500)
    assert (error["type"], error["code"]) == ("server_error", "internal")
    eventually(lambda: [entry["event"] for entry in logged.entries] == ["internal_error"])
    assert served(stage)[0] == "1"


def test_reload_takes_in_the_configuration_and_the_registry_now(stage: Keyed) -> None:
    path = stage.gateway.folder / "route-switch.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["gateway"]["combinations"][0]["weight"] = 9
    settings["gateway"]["addr"] = "127.0.0.1:1"
    path.write_text(yaml.safe_dump(settings))
    fresh = done(stage.admin("POST", "/reload"))
    assert weights(stage)["a"] == (9, False)
    assert fresh["restart_needed"] == ["gateway.addr"]
    assert fresh["configuration_error"] is None


def test_reload_says_what_is_wrong_with_the_news_and_the_old_goes_on(stage: Keyed) -> None:
    (stage.gateway.folder / "route-switch.yaml").write_text("gateway: {strategy: best}")
    refused = stage.admin("POST", "/reload", {})
    assert refused.status_code == 400
    assert "'best' is no strategy" in refused.json()["error"]["message"]
    assert served(stage)[0] == "1"


def test_a_key_made_over_the_api_works_at_once_and_its_secret_is_shown_once(stage: Keyed) -> None:
    form = {
        "name": "shop", "templates": ["support"], "models": [], "store": "none", "expires_at": "2199-01-01T00:00:00Z",
        "limits": {"requests_per_minute": 2, "tokens_per_minute": 1000, "concurrency": 1, "budget_usd": 100,
                   "budget_period": "day", "allow_unpriced": True},
    }  # fmt: skip
    made = done(stage.admin("POST", "/keys", form), 201)
    stage.secrets["shop"] = made.pop("key")
    assert stage.ask("shop").status_code == 200
    assert made["limits"] == form["limits"]
    assert made["state"] == "active"
    (boss,) = (k for k in done(stage.admin("GET", "/keys")) if k["name"] == "boss")
    assert made["created_by"] == f"key {boss['key_id']}"
    shown = stage.admin("GET", f"/keys/{made['key_id']}")
    assert {name: shown.json()[name] for name in made} == made
    assert stage.secrets["shop"] not in shown.text + stage.admin("GET", "/keys").text


@pytest.mark.parametrize(("named", "closed"), [("templates", "models"), ("models", "templates")])
def test_a_key_that_names_one_kind_of_scope_gets_nothing_of_the_other(stage: Keyed, named: str, closed: str) -> None:
    made = done(stage.admin("POST", "/keys", {"name": "narrow", named: ["support"]}), 201)
    assert (made[named], made[closed]) == (["support"], [])


def test_a_change_of_a_key_counts_at_once_and_what_is_not_named_stays(stage: Keyed) -> None:
    made = done(
        stage.admin(
            "POST", "/keys", {"name": "shop", "templates": None, "models": [], "limits": {"requests_per_minute": 1}}
        ),
        201,
    )
    stage.secrets["shop"], path = made["key"], f"/keys/{made['key_id']}"
    assert [stage.ask("shop").status_code for _ in range(2)] == [200, 429]
    changed = done(stage.admin("PATCH", path, {"limits": None, "templates": ["other"]}))
    assert (changed["name"], changed["models"], changed["templates"]) == ("shop", [], ["other"])
    assert stage.ask("shop").status_code == 403
    done(stage.admin("PATCH", path, {"templates": None, "admin": True, "expires_at": "2199-01-01T00:00:00Z"}))
    assert stage.ask("shop").status_code == 200
    assert stage.request("GET", "/status", key="shop").status_code == 200
    assert done(stage.admin("PATCH", path, {"expires_at": None}))["expires_at"] is None
    for nothing in ({"name": None}, {"admin": None}, {"key_id": "x"}):
        refused(stage.admin("PATCH", path, nothing), 400)


def test_a_revoked_key_is_refused_at_once_and_stays_revoked(stage: Keyed) -> None:
    made = done(stage.admin("POST", "/keys", {"name": "shop"}), 201)
    assert stage.ask(made["key"]).status_code == 200
    assert done(stage.admin("DELETE", f"/keys/{made['key_id']}"))["state"] == "revoked"
    assert stage.ask(made["key"]).status_code == 401
    assert done(stage.admin("DELETE", f"/keys/{made['key_id']}"))["state"] == "revoked"
    refused(stage.admin("PATCH", f"/keys/{made['key_id']}", {"name": "again"}), 400, "revoked")


def test_the_document_describes_every_admin_route(stage: Keyed) -> None:
    paths = done(stage.request("GET", "/openapi.json"))["paths"]
    for method, path in ROUTES:
        documented = "/admin" + path.replace("/support", "/{template_id}").replace("/x", "/{key_id}")
        assert {"401", "403"} <= set(paths[documented][method.lower()]["responses"])


@pytest.mark.parametrize("nested", [False, True])
def test_a_template_that_names_python_code_is_never_taken_over_the_api(stage: Keyed, nested: bool) -> None:
    evaluator: dict[str, Any] = {"name": "python", "python": "os:system"}
    if nested:
        evaluator = {"name": "Weighted", "parts": [{"evaluator": evaluator}]}
    refused(stage.admin("POST", "/templates", {**NEW, "evaluator": evaluator}), 400, "never named over the API")
    done(stage.admin("GET", "/templates/orders"), 404)
