"""Python evaluators: only what the configuration allows is imported, and what fails says module, function and row."""

import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from rs_gateway.adapters.scripted_chat import ScriptedChat
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Answer, EvaluatorFailedError, names_python
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.settings import load_settings
from rs_gateway.template_file import check_template
from rs_gateway.template_form import TemplateForm
from rs_pipelines.evaluators.registry import Resources, build_evaluator
from rs_pipelines.sample import Split
from rs_pipelines.scoring import score_rows
from tests.pipelines import scorers
from tests.pipelines.parcels import LIVE, cache_at, model, parcel

MODULE = scorers.__name__
ALLOWED = Resources(python_modules=frozenset({MODULE, "tests.pipelines.not_there", "broken_scorer"}))


def spec(function: str, **options: Any) -> dict[str, Any]:
    return {"name": "Python", "python": f"{MODULE}:{function}", **options}


def test_a_function_scores_with_or_without_an_explanation() -> None:
    [score] = build_evaluator(spec("overlap", threshold=0.5), ALLOWED).score([Answer("a b", "b c")])
    assert (score.value, score.passed, score.explanation) == (0.5, True, "1 words missing")
    [score] = build_evaluator(spec("shorter"), ALLOWED).score([Answer("a", "bc")])
    assert (score.value, score.passed, score.explanation) == (1.0, True, "")
    assert score.evaluator.startswith(f"python/1 ({MODULE}:shorter, ")


def test_a_number_of_numpy_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "shorter", lambda output, expected: np.float32(0.5))  # pyright: ignore[reportUnknownLambdaType]
    [score] = build_evaluator(spec("shorter"), ALLOWED).score([Answer("a", "bc")])
    assert type(score.value) is float


@pytest.mark.parametrize(
    "section", [{"python": f"{MODULE}:overlap"}, {"name": "python", "python": f"{MODULE}:overlap"}]
)
def test_the_name_may_be_left_out(section: dict[str, Any]) -> None:
    assert build_evaluator(section, ALLOWED).name.startswith("python/1")


def test_by_default_no_module_is_allowed_and_none_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sneaky_scorer.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"'sneaky_scorer' is not among `evaluation.python_modules` \(none\)"):
        build_evaluator({"name": "Python", "python": "sneaky_scorer:score"})
    assert "sneaky_scorer" not in sys.modules


@pytest.mark.parametrize("inside", ["os", "tests", "tests.pipelines", f"{MODULE}.inner"])
def test_only_the_very_module_that_is_named_is_allowed(inside: str) -> None:
    with pytest.raises(ConfigurationError, match="not among"):
        build_evaluator({"name": "Python", "python": f"{inside}:overlap"}, ALLOWED)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("overlap", "module:function"),
        (f"{MODULE}:", "module:function"),
        (f"{MODULE}:overlap.__code__", "module:function"),
        (f"{MODULE}:nothing", "no function 'nothing'"),
        (f"{MODULE}:constant", "no function 'constant'"),
        (f"{MODULE}:is_async", "async"),
        ("tests.pipelines.not_there:score", "cannot be imported.*PYTHONPATH"),
    ],
)
def test_what_cannot_be_loaded_is_named(reference: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        build_evaluator({"name": "Python", "python": reference}, ALLOWED)
    assert repr(reference) in str(refusal.value)


def test_a_module_that_raises_on_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_scorer.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"broken_scorer:score.*ZeroDivisionError: division by zero"):
        build_evaluator({"name": "Python", "python": "broken_scorer:score"}, ALLOWED)


@pytest.mark.parametrize("output", ["nan", "above", "huge", "none", "text", "pair", "list"])
def test_what_is_no_score_is_refused_with_the_row(output: str) -> None:
    evaluator = build_evaluator(spec("returns"), ALLOWED)
    with pytest.raises(EvaluatorFailedError, match=f"{MODULE}:returns' returned .* for row e7: it must return"):
        evaluator.score([Answer(output, "x", example_id="e7")])


def test_a_function_that_raises_ends_the_scoring_with_module_function_and_row(tmp_path: Path) -> None:
    rows = [parcel(n, Split.VAL) for n in range(3)]
    asked = model(ScriptedChat([""]), cache_at(tmp_path))

    async def run() -> None:
        evaluator = build_evaluator(spec("divides"), ALLOWED)
        await score_rows(LIVE, rows, template_id="parcels", model=asked, evaluator=evaluator)

    with pytest.raises(EvaluatorFailedError, match=f"{MODULE}:divides' failed on row e0000: ZeroDivisionError"):
        anyio.run(run)
    evaluator = build_evaluator(spec("divides"), ALLOWED)
    with pytest.raises(EvaluatorFailedError, match="row 2:"):
        evaluator.score([Answer("x", "x"), Answer("", "x")])


def template(evaluator: dict[str, Any]) -> PromptTemplate:
    return TemplateForm.read({"id": "t", "instruction": "", "evaluator": evaluator}).to_template()[0]


def test_a_template_is_registered_with_what_its_configuration_allows(tmp_path: Path) -> None:
    allowing, denying = tmp_path / "allowing.yaml", tmp_path / "denying.yaml"
    allowing.write_text(
        f"evaluation: {{python_modules: [{MODULE}]}}\nmodel_providers: {{vendor: {{base_url: http://x}}}}"
    )
    denying.write_text("evaluation: {}")
    check_template(template(spec("overlap")), load_settings(allowing))
    for section in (spec("overlap"), {"name": "LLMJudge", "model": "vendor/judge"}):
        with pytest.raises(ConfigurationError, match=r"python_modules|model_providers"):
            check_template(template(section), load_settings(denying))
    check_template(template({"name": "LLMJudge", "model": "vendor/judge"}), load_settings(allowing))


@pytest.mark.parametrize("modules", ["[a-b]", "['a:b']", "['']", "['a.']", "['*']", "a"])
def test_the_list_of_modules_holds_names_of_modules(modules: str, tmp_path: Path) -> None:
    path = tmp_path / "route-switch.yaml"
    path.write_text(f"evaluation: {{python_modules: {modules}}}")
    with pytest.raises(ConfigurationError, match="python_modules"):
        load_settings(path)


PYTHON: dict[str, Any] = {"name": "P-Y_thon", "python": "m:f"}


@pytest.mark.parametrize(
    "section",
    [
        PYTHON,
        {"python": "m:f"},
        {"name": "Weighted", "parts": [{"evaluator": {"name": "exact"}}, {"evaluator": PYTHON}]},
        {"name": "Weighted", "parts": [{"evaluator": {"name": "weighted", "parts": [{"evaluator": PYTHON}]}}]},
    ],
)
def test_python_is_found_wherever_a_section_names_it(section: dict[str, Any]) -> None:
    assert names_python(section)


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"name": "exact"},
        {"name": "json", "schema": {"properties": {"python": {"type": "string"}}}},
        {"name": "Weighted", "parts": [None, {"evaluator": "Python"}, 3]},
        {"name": "Weighted", "parts": 3},
    ],
)
def test_what_only_looks_like_python_is_not_it(section: dict[str, Any]) -> None:
    assert not names_python(section)
