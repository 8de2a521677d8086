"""Evaluators by name, as a template's `evaluator` section gives them: `{"name": ..., options}`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from rs_gateway.domain.chat import JsonObject, JsonValue
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Evaluator, evaluator_kind
from rs_gateway.domain.prompts import PromptTemplate
from rs_gateway.domain.wording import did_you_mean
from rs_gateway.settings import Settings
from rs_pipelines.evaluators.embedding_cache import EmbeddingCache
from rs_pipelines.evaluators.exact_match import ExactMatch
from rs_pipelines.evaluators.json_match import JsonMatch
from rs_pipelines.evaluators.keyword_match import KeywordMatch
from rs_pipelines.evaluators.llm_judge import LLMJudge
from rs_pipelines.evaluators.numeric import Numeric
from rs_pipelines.evaluators.python_function import PythonFunction, PythonOptions
from rs_pipelines.evaluators.regex import Regex
from rs_pipelines.evaluators.similarity import Similarity, SimilarityOptions
from rs_pipelines.evaluators.weighted import Weighted

AVAILABLE = (
    "ExactMatch",
    "JsonMatch",
    "KeywordMatch",
    "LLMJudge",
    "Numeric",
    "Python",
    "Regex",
    "Similarity",
    "Weighted",
)
_MAX_DEPTH = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """What evaluators may use of the place where they run.

    Attributes:
        providers: that a judge's model may belong to; None is not known, and checked when it is asked.
        python_modules: whose functions may be evaluators.
        embeddings: where Similarity keeps its vectors; None keeps none.
    """

    providers: frozenset[str] | None = None
    python_modules: frozenset[str] = frozenset()
    embeddings: EmbeddingCache | None = None


def resources_of(settings: Settings) -> Resources:
    """What a configuration grants."""
    return Resources(
        providers=frozenset(settings.model_providers),
        python_modules=frozenset(settings.evaluation.python_modules),
        embeddings=EmbeddingCache(settings.path(settings.data_dir) / "cache" / "embeddings.db"),
    )


def build_evaluator(spec: Mapping[str, JsonValue], resources: Resources | None = None) -> Evaluator:
    """The evaluator that `spec` describes. Case, `_` and `-` do not count in its name: `ExactMatch`, `exact_match`.

    Args:
        resources: None grants nothing, so Python evaluators are refused.

    Raises:
        ConfigurationError: no such evaluator or option, a value that the option does not take, or something that the
            resources do not grant.
    """
    return _build(spec, resources or Resources(), depth=0)


def check_template(template: PromptTemplate, settings: Settings | None = None) -> None:
    """Called through the `route_switch.template_checks` entry point when a template is registered.

    Raises:
        ConfigurationError: its evaluator section describes none.
    """
    if template.evaluator:
        build_evaluator(template.evaluator, None if settings is None else resources_of(settings))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _WeightedOptions:
    parts: tuple[JsonObject, ...]
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _PartOptions:
    evaluator: JsonObject
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


def _build(spec: Mapping[str, JsonValue], resources: Resources, *, depth: int) -> Evaluator:
    kind = evaluator_kind(spec)
    if kind is None:
        raise ConfigurationError(
            f"An evaluator needs a `name`, not {spec.get('name')!r}: one of {', '.join(AVAILABLE)}."
        )
    options = {key: value for key, value in spec.items() if key != "name"}
    if kind == "weighted":
        return _weighted(options, resources, depth=depth)
    builder = _BUILDERS.get(kind)
    if builder is None:
        meant = did_you_mean(str(spec["name"]), AVAILABLE)
        raise ConfigurationError(f"There is no evaluator {spec['name']!r}: there are {', '.join(AVAILABLE)}.{meant}")
    return builder(options, resources)


def _plain(name: str, evaluator: type[Evaluator]) -> Callable[[JsonObject, Resources], Evaluator]:
    return lambda options, _: _convert(name, options, evaluator)


def _similarity(options: JsonObject, resources: Resources) -> Evaluator:
    return Similarity(_convert("Similarity", options, SimilarityOptions), cache=resources.embeddings)


def _judge(options: JsonObject, resources: Resources) -> Evaluator:
    judge: LLMJudge = _convert("LLMJudge", options, LLMJudge)
    provider = judge.model.partition("/")[0]
    if resources.providers is not None and provider not in resources.providers:
        known = ", ".join(sorted(resources.providers)) or "none"
        raise ConfigurationError(f"LLMJudge: `model` {judge.model!r} names no provider of model_providers ({known}).")
    return judge


def _python(options: JsonObject, resources: Resources) -> Evaluator:
    return PythonFunction(_convert("Python", options, PythonOptions), allowed=resources.python_modules)


def _weighted(options: JsonObject, resources: Resources, *, depth: int) -> Evaluator:
    if depth >= _MAX_DEPTH:
        raise ConfigurationError(f"Weighted evaluators are nested more than {_MAX_DEPTH} deep.")
    read = _convert("Weighted", options, _WeightedOptions)
    parts = [_convert("Weighted part", part, _PartOptions) for part in read.parts]
    return Weighted(
        parts=tuple((_build(part.evaluator, resources, depth=depth + 1), part.weight) for part in parts),
        threshold=read.threshold,
    )


def _convert(name: str, options: JsonObject, kind: type[Any]) -> Any:
    allowed = [f.name for f in dataclasses.fields(kind) if f.init]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise ConfigurationError(f"{name} has no option {', '.join(map(repr, unknown))}: it has {', '.join(allowed)}.")
    try:
        return msgspec.convert(options, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


_BUILDERS: Mapping[str, Callable[[JsonObject, Resources], Evaluator]] = {
    "exactmatch": _plain("ExactMatch", ExactMatch),
    "exact": _plain("ExactMatch", ExactMatch),
    "keywordmatch": _plain("KeywordMatch", KeywordMatch),
    "keyword": _plain("KeywordMatch", KeywordMatch),
    "jsonmatch": _plain("JsonMatch", JsonMatch),
    "json": _plain("JsonMatch", JsonMatch),
    "numeric": _plain("Numeric", Numeric),
    "regex": _plain("Regex", Regex),
    "similarity": _similarity,
    "llmjudge": _judge,
    "judge": _judge,
    "python": _python,
}
