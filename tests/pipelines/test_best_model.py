"""Which model for a template: the figures, and the command over two models behind a real server."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from rs_gateway.domain.chat import ProviderCall
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.wiring import open_registry
from rs_pipelines import planning, steps
from rs_pipelines.best_model import BestModel, Tried, rank
from rs_pipelines.best_model_report import best_model_page, conclusions, print_best_model
from rs_pipelines.call_budget import BudgetExhaustedError
from rs_pipelines.cli import register
from rs_pipelines.effort import Effort
from rs_pipelines.examples import Gathered
from rs_pipelines.find_best_model import Crossed, Failed, NoModelAnsweredError, find_best_model
from rs_pipelines.preflight import PreflightError
from rs_pipelines.sample import Split, Target
from rs_pipelines.workbench import Workbench
from tests import upstream as wire
from tests.pipelines.parcels import LIVE, ORIGIN, tiny_model
from tests.pipelines.tiny_upstream import TEMPLATE, configuration, import_parcels
from tests.running import write_configuration
from tests.upstream import Exchange, Upstream

GOOD, POOR = (1.0,) * 90 + (0.0,) * 10, (1.0,) * 40 + (0.0,) * 60


def tried(model: str, values: tuple[float | None, ...], usd: float | None = 1.0, **fields: object) -> Tried:
    plain = Tried(model, f"hash of {model}", False, values, usd, 100.0, 10.0, (0.1, 0.2, 0.3))
    return replace(plain, **fields)


def ranked(*models: Tried, bound: float = 0.02) -> BestModel:
    transfer = {one.model: {other.model: 0.5 for other in models} for one in models}
    return rank(models, template_id="t", quality_bound=bound, transfer=transfer, model_calls=1, seed=0)


def test_the_cheapest_within_the_bound_is_as_good_as_the_best_for_less() -> None:
    found = ranked(tried("dear", GOOD, 5.0), tried("cheap", GOOD, 1.0), tried("poor", POOR, 0.1))
    assert found.best == "dear"
    assert found.cheapest_within_bound == "cheap"
    assert [one.model for one in found.models] == ["cheap", "dear", "poor"]
    assert {one.model: one.within_bound for one in found.models} == {"cheap": True, "dear": True, "poor": False}
    assert {one.model: one.on_front for one in found.models} == {"cheap": True, "dear": False, "poor": True}


def test_a_model_that_may_be_worse_than_allowed_is_not_within_the_bound() -> None:
    slightly_worse = GOOD[:85] + (0.0,) * 15
    few = ranked(tried("best", GOOD, 5.0), tried("cheap", slightly_worse, 1.0), bound=0.06)
    assert few.cheapest_within_bound == "best"
    wide = ranked(tried("best", GOOD, 5.0), tried("cheap", slightly_worse, 1.0), bound=0.2)
    assert wide.cheapest_within_bound == "cheap"


def test_tokens_stand_in_for_prices_that_nobody_knows() -> None:
    short = tried("short", GOOD, None, input_tokens=10.0)
    found = ranked(tried("long", GOOD, 1.0), short)
    assert (found.cost_basis, found.cheapest_within_bound) == ("tokens", "short")
    assert "not every price is known" in conclusions(found)[1]
    nothing = ranked(tried("a", GOOD, None, input_tokens=None), tried("b", POOR, None, input_tokens=None))
    assert nothing.cheapest_within_bound is None


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=8, max_size=8), st.floats(0, 10)),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(models: list[tuple[list[float], float]]) -> None:
    found = ranked(*(tried(f"m{n}", tuple(values), usd) for n, (values, usd) in enumerate(models)))
    assert found.models[0].mean == max(one.mean for one in found.models)
    for one in found.models:
        assert one.low <= one.mean + 1e-9 and one.mean <= one.high + 1e-9
        beaten = [
            other
            for other in found.models
            if other.mean >= one.mean
            and (other.usd_per_1000_calls or 0) <= (one.usd_per_1000_calls or 0)
            and (other.mean, other.usd_per_1000_calls) != (one.mean, one.usd_per_1000_calls)
        ]
        assert one.on_front is not bool(beaten)


def test_missing_rows_are_left_out_and_a_model_without_answers_is_refused() -> None:
    found = ranked(tried("a", GOOD), tried("b", (None, *GOOD[1:])))
    assert {one.model: one.answered for one in found.models} == {"a": 100, "b": 99}
    with pytest.raises(ValueError, match="no test row"):
        ranked(tried("a", GOOD), tried("b", (None,) * 100))


def test_the_page_shows_all_models_and_needs_nothing_from_elsewhere() -> None:
    page = best_model_page(ranked(tried("a & b", GOOD, 5.0), tried("<c>", POOR, 1.0)))
    assert "a &amp; b" in page and "&lt;c&gt;" in page and "<c>" not in page
    assert page.count("<circle") == 2
    assert not re.search(r"(?:src|href)=", page)
    console = Console(record=True, width=200)
    print_best_model(console, ranked(tried("a", GOOD), tried("b", POOR, None)))
    assert "unknown" in console.export_text()


def test_one_model_alone_is_no_choice_and_is_not_called_one() -> None:
    found = ranked(tried("only", GOOD, 5.0))
    assert conclusions(found)[0].startswith("There was nothing to choose from: only is the only model that was asked.")
    console = Console(record=True, width=200)
    print_best_model(console, found)
    for report in (console.export_text(), best_model_page(found)):
        assert "nothing to choose from" in report and "0.900" in report
        assert not re.search(r"Best:|Cheapest|Nobody is better|Transfer|to choose among", report)


async def two_models(exchange: Exchange) -> None:
    """`tiny` learns from demos; `deaf` always says the same."""
    body = dict(exchange.body)
    messages, name = tuple(body.pop("messages")), body.pop("model")
    reply = "none" if name == "deaf" else str(tiny_model(ProviderCall(name, messages, body, 10)))
    await wire.answers(reply)(exchange)


def bench_of_two(folder: Path, upstream: Upstream, **counts: int) -> Workbench:
    sections = configuration(upstream)
    sections["gateway"]["combinations"].append(
        {"id": "parcels-deaf", "template_id": "parcels", "model": "deaf", "provider": "scripted"}
    )
    sections["model_providers"]["scripted"]["prices"] = {
        "tiny": {"input_usd_per_million_tokens": 1.0, "output_usd_per_million_tokens": 2.0},
        "deaf": {"input_usd_per_million_tokens": 0.1, "output_usd_per_million_tokens": 0.2},
    }
    bench = Workbench.at(write_configuration(folder, sections))
    open_registry(bench.settings).register(TEMPLATE, LIVE, origin=ORIGIN)
    import_parcels(folder, bench, **counts)
    return bench


def test_each_model_gets_its_prompt_and_every_prompt_runs_on_every_model(tmp_path: Path) -> None:
    with Upstream([two_models]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream)
        found = find_best_model(bench, "parcels", effort=Effort(num_trials=3))
        asked = len(upstream.requests)
        again = find_best_model(bench, "parcels", effort=Effort(num_trials=3))
        asked_again = len(upstream.requests) - asked
    assert found.best == found.cheapest_within_bound == "tiny"
    tuned, deaf = found.models
    assert (tuned.model, deaf.model) == ("tiny", "deaf")
    assert tuned.mean > 0.5 and deaf.mean == 0 and not tuned.is_live and deaf.is_live
    assert found.transfer["tiny"]["tiny"] == tuned.mean > (found.transfer["deaf"]["tiny"] or 0)
    assert tuned.usd_per_1000_calls is not None and tuned.p50_s is not None
    assert found.model_calls <= asked
    # A second run asks again only to take the time.
    assert asked_again <= 2 * 20
    assert [one.mean for one in again.models] == [one.mean for one in found.models]
    assert bench.registry.get("parcels").live("tiny") == bench.live(bench.target("parcels", "tiny"))
    assert bench.live(bench.target("parcels", "tiny")).number == 1, "nothing is published"


def test_rows_that_a_compared_model_labelled_are_left_out_and_a_teachers_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = planning.gathered

    def taught(bench: Workbench, target: Target) -> Gathered:
        """Ten test rows have a label of another model, ten more one of `deaf`, which `deaf` does not get."""
        tests = [e for e in gathered(bench, target).examples if e.split is Split.TEST]
        others = tuple(e for e in gathered(bench, target).examples if e.split is not Split.TEST)
        by_deaf = [] if target.model == "deaf" else [replace(e, provenance="teacher:deaf") for e in tests[10:20]]
        return Gathered(
            (*others, *(replace(e, provenance="teacher:large") for e in tests[:10]), *by_deaf, *tests[20:]), 0
        )

    monkeypatch.setattr(steps, "gathered", taught)
    with Upstream([two_models]).running() as upstream:
        found = find_best_model(bench_of_two(tmp_path, upstream), "parcels", optimize=False)
    assert (found.n_test, found.test_by_provenance) == (70, {"imported": 60, "teacher:large": 10})
    assert found.left_out_by_provenance == {"teacher:deaf": 10}
    left_out = (
        "Warning: 10 more test rows are left out, for teacher:deaf labelled them and is among the models compared."
    )
    assert conclusions(found)[:2] == ["10 of 70 test rows labelled by teacher:large.", left_out]
    assert "10 of 70 test rows labelled by teacher:large." in best_model_page(found)


def test_a_model_that_is_judged_by_its_own_answers_is_warned_of() -> None:
    found = replace(ranked(tried("a", GOOD), tried("b", POOR)), test_by_provenance={"human": 80, "teacher:a": 20})
    assert conclusions(found)[0] == "20 of 100 test rows labelled by teacher:a."
    assert "is judged by its own answers" in conclusions(found)[1]


def test_a_budget_for_all_models_together_is_kept_or_refused(tmp_path: Path) -> None:
    with Upstream([two_models]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream)
        with pytest.raises(ConfigurationError, match=r"--max-calls 200 is not enough for 2 models.*180 of them"):
            find_best_model(bench, "parcels", effort=Effort(max_calls=200))
        assert upstream.requests == []
        find_best_model(bench, "parcels", effort=Effort(num_trials=3, max_calls=1_400))
        find_best_model(bench, "parcels", effort=Effort(num_trials=3, max_calls=1_400))
    assert len(upstream.requests) <= 1_400


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_calls": 50}, r"mipro_v2.max_calls 50 is not enough for 2 models: each needs at least \d+ calls"),
        ({"max_tokens": 10_000}, "nothing limits how long an answer of scripted/tiny may be"),
        ({"max_cost_usd": 1.0}, "nobody knows what scripted/deaf costs"),
    ],
    ids=str,
)
@pytest.mark.parametrize("optimize", [True, False])
def test_limits_of_the_configuration_that_cannot_be_kept_are_refused_before_anything_is_asked(
    tmp_path: Path, limits: dict[str, float], words: str, *, optimize: bool
) -> None:
    with Upstream([two_models]).running() as upstream:
        sections = configuration(upstream, mipro_v2=limits)
        provider = sections["model_providers"]["scripted"]
        provider["prices"] = {"tiny": {"input_usd_per_million_tokens": 1.0, "output_usd_per_million_tokens": 2.0}}
        provider["options"] = {} if "max_tokens" in limits else {"max_tokens": 50}
        tiny = sections["gateway"]["combinations"][0]
        sections["gateway"]["combinations"].append({**tiny, "id": "parcels-deaf", "model": "deaf"})
        bench = Workbench.at(write_configuration(tmp_path, sections))
        open_registry(bench.settings).register(TEMPLATE, LIVE, origin=ORIGIN)
        import_parcels(tmp_path, bench)
        with pytest.raises(ConfigurationError, match=words):
            find_best_model(bench, "parcels", optimize=optimize)
    assert upstream.requests == []


async def hardly_answers(exchange: Exchange, number: int, *, of: int) -> None:
    await (wire.fails(500)(exchange) if number % of else two_models(exchange))


def test_retries_count_towards_the_budget_of_all_models_and_what_was_found_by_then_is_said(tmp_path: Path) -> None:
    numbers = itertools.count()
    with Upstream([lambda exchange: hardly_answers(exchange, next(numbers), of=4)]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream, test=20)
        found = find_best_model(bench, "parcels", optimize=False, effort=Effort(max_calls=130))
    assert len(upstream.requests) == 130
    said = "\n".join(conclusions(found))
    for one in found.models:
        assert one.answered < 20
        assert f"{one.model} answered {one.answered} of 20 test rows: its figures are of these." in said
        assert f"not every prompt has run on {one.model}. Comparison of 2 prompts on {one.model}: all 65 model" in said


def test_where_no_model_could_be_finished_the_error_says_what_was_spent_and_that_it_is_kept(tmp_path: Path) -> None:
    numbers = itertools.count()
    with Upstream([lambda exchange: hardly_answers(exchange, next(numbers), of=16)]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream, test=20)
        words = r"Comparison of 2 prompts on tiny: all 65 model calls are spent.*--max-calls.*cost nothing again"
        with pytest.raises(BudgetExhaustedError, match=words):
            find_best_model(bench, "parcels", optimize=False, effort=Effort(max_calls=130))
    assert len(upstream.requests) == 130, "65 of each model, and none was finished"


def test_a_model_that_used_up_its_budget_with_failures_is_named_and_the_others_are_ranked(tmp_path: Path) -> None:
    numbers, broken = itertools.count(), True

    async def deaf_fails_often(exchange: Exchange) -> None:
        fails = broken and exchange.body["model"] == "deaf" and next(numbers) % 16
        await (wire.fails(500)(exchange) if fails else two_models(exchange))

    with Upstream([deaf_fails_often]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream, test=20)
        found = find_best_model(bench, "parcels", optimize=False, effort=Effort(max_calls=130))
        asked = len(upstream.requests)
        broken = False
        again = find_best_model(bench, "parcels", optimize=False, effort=Effort(max_calls=200))
        paid_again = len(upstream.requests) - asked - 2 * 20  # the time is taken anew
    assert ([one.model for one in found.models], found.best) == (["tiny"], "tiny")
    assert found.unfinished.keys() == {"deaf"} and found.transfer["tiny"]["deaf"] is None
    [warning, nothing] = conclusions(found)[-2:]
    assert "deaf is not finished, so it is not ranked. Comparison of 2 prompts on deaf: all 65 model calls" in warning
    assert "--max-calls" in warning and "cost nothing again" in warning
    assert "tiny is the only model that was finished" in nothing
    assert (len(again.models), dict(again.unfinished)) == (2, {})
    assert 0 < paid_again < 20, "only what had no answer yet"


def test_a_model_on_which_not_every_prompt_has_run_is_ranked_with_a_warning() -> None:
    found = ranked(tried("a", GOOD), tried("b", POOR))
    found = replace(found, unfinished={"b": "All calls are spent."}, transfer={"a": {"a": 0.9, "b": None}, "b": {}})
    assert conclusions(found)[0] == "Warning: not every prompt has run on b. All calls are spent."
    assert "Best: a." in conclusions(found)


async def deaf_is_down(exchange: Exchange) -> None:
    await (wire.fails(401)(exchange) if exchange.body["model"] == "deaf" else two_models(exchange))


@pytest.mark.parametrize(
    ("optimize", "why"),
    [(True, "The model gave no answer to 10 rows ("), (False, "None of 80 test rows has a score (")],
)
def test_a_model_that_answers_nothing_is_named_with_the_reason_and_the_others_are_ranked(
    tmp_path: Path, *, optimize: bool, why: str
) -> None:
    with Upstream([deaf_is_down]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream)
        told: list[object] = []
        found = find_best_model(bench, "parcels", optimize=optimize, effort=Effort(num_trials=3), on_step=told.append)
        asked_of_deaf = sum(exchange["model"] == "deaf" for exchange in upstream.requests)
    assert ([one.model for one in found.models], found.best) == (["tiny"], "tiny")
    assert found.failed.keys() == {"deaf"} and not found.unfinished
    assert found.failed["deaf"].startswith(why) and "provider_refused" in found.failed["deaf"]
    assert "`route-switch check --live`" in found.failed["deaf"]
    assert Failed("deaf", found.failed["deaf"]) in told and Crossed("deaf") not in told
    assert asked_of_deaf <= 80, "once it is known nothing more is asked"
    said = conclusions(found)
    assert f"Warning: deaf failed, so it is not ranked. {found.failed['deaf']}" in said
    assert "tiny is the only model that was finished" in said[-1]
    assert "deaf failed" in best_model_page(found)


def test_a_model_that_stops_answering_in_its_search_is_named_and_the_others_are_ranked(tmp_path: Path) -> None:
    numbers = itertools.count()

    async def deaf_goes_down(exchange: Exchange) -> None:
        down = exchange.body["model"] == "deaf" and next(numbers) >= 20
        await (wire.fails(401)(exchange) if down else two_models(exchange))

    with Upstream([deaf_goes_down]).running() as upstream:
        found = find_best_model(bench_of_two(tmp_path, upstream), "parcels", effort=Effort(num_trials=3))
    assert [one.model for one in found.models] == ["tiny"]
    assert re.search(r"Study \w+: \d+ of 60 rows got no answer \(provider_refused", found.failed["deaf"])


@pytest.mark.parametrize("optimize", [True, False])
def test_where_no_model_answers_the_error_names_them_all(tmp_path: Path, *, optimize: bool) -> None:
    with Upstream([wire.fails(401)]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream, test=40)
        with pytest.raises(NoModelAnsweredError, match="No model of 'parcels' could be compared:") as caught:
            find_best_model(bench, "parcels", optimize=optimize)
    assert caught.value.reasons.keys() == {"tiny", "deaf"}
    assert re.search(r"\n  - tiny: .*provider_refused.*\n  - deaf: .*provider_refused", str(caught.value))


def test_what_no_model_could_mend_still_ends_the_command_at_once(tmp_path: Path) -> None:
    with Upstream([wire.fails(401)]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream, test=10)
        with pytest.raises(PreflightError, match="The test split has 10 rows"):
            find_best_model(bench, "parcels")
        asked = {exchange["model"] for exchange in upstream.requests}
    assert asked == {"tiny"}


def test_where_only_the_time_cannot_be_taken_any_more_there_is_a_result(tmp_path: Path) -> None:
    with Upstream([two_models]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream, test=20)
        runs = [find_best_model(bench, "parcels", optimize=False, effort=Effort(max_calls=160)) for _ in range(4)]
    assert len(upstream.requests) == 160
    assert [one.mean for one in runs[3].models] == [one.mean for one in runs[0].models]
    assert runs[0].models[0].p50_s is not None
    assert runs[3].models[0].p50_s is None


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--models", ""], "--models '' names no model: 'parcels' runs on tiny, deaf"),
        (["--models", " , "], "names no model: 'parcels' runs on tiny, deaf"),
        (["--output-dir", "/dev/null/report"], "--output-dir /dev/null/report cannot be written"),
        (["--output-dir", "/proc/report"], "--output-dir /proc/report cannot be written"),
    ],
)
def test_what_could_not_end_in_a_report_is_refused_before_anything_is_asked(
    tmp_path: Path, option: list[str], words: str
) -> None:
    app = typer.Typer()
    register(app)
    with Upstream([two_models]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream)
        options = ["find-best-model", "parcels", "--config", str(bench.settings.config_path), *option]
        refused = CliRunner().invoke(app, options)
    assert isinstance(refused.exception, ConfigurationError)
    assert words in str(refused.exception)
    assert upstream.requests == []


def test_the_command_prints_tables_or_json_and_writes_a_page(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    with Upstream([two_models]).running() as upstream:
        bench = bench_of_two(tmp_path, upstream)
        options = ["find-best-model", "parcels", "--no-optimize", "--config", str(bench.settings.config_path)]
        shown = CliRunner().invoke(app, [*options, "--output-dir", str(tmp_path / "report")])
        printed = CliRunner().invoke(app, [*options, "--json", "--models", "tiny"])
        unknown = CliRunner().invoke(app, [*options, "--models", "gpt-9"])
    with Upstream([deaf_is_down]).running() as upstream:
        (tmp_path / "down").mkdir()
        bench_of_two(tmp_path / "down", upstream)
        options[-1] = str(tmp_path / "down/route-switch.yaml")
        one_failed = CliRunner().invoke(app, [*options, "--json"])
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.count("calibration sample:") == 1
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["best-model.html", "best-model.json"]
    assert "Cheapest within the quality bound" in shown.stdout and "prompt tuned for" in shown.stdout
    assert (tmp_path / "report/best-model.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "report/best-model.json").read_text())["n_test"] == 80
    assert [one["model"] for one in json.loads(printed.stdout)["models"]] == ["tiny"]
    assert json.loads(one_failed.stdout)["failed"].keys() == {"deaf"}
    assert "deaf failed, the others go on without it: None of 80 test rows" in " ".join(one_failed.stderr.split())
    assert isinstance(unknown.exception, ConfigurationError)
    assert "does not run on 'gpt-9'; it runs on tiny, deaf" in str(unknown.exception)
