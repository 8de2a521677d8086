"""Evaluators by name, as a template's `evaluator` section gives them: `{"name": ..., options}`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from rs_gateway.domain.chat import JsonObject, JsonValue
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Evaluator
from rs_gateway.domain.prompts import PromptTemplate
from rs_pipelines.evaluators.exact_match import ExactMatch
from rs_pipelines.evaluators.json_match import JsonMatch
from rs_pipelines.evaluators.keyword_match import KeywordMatch
from rs_pipelines.evaluators.numeric import Numeric
from rs_pipelines.evaluators.regex import Regex
from rs_pipelines.evaluators.similarity import Similarity, SimilarityOptions
from rs_pipelines.evaluators.weighted import Weighted

AVAILABLE = ("ExactMatch", "JsonMatch", "KeywordMatch", "Numeric", "Regex", "Similarity", "Weighted")
_MAX_DEPTH = 8


def build_evaluator(spec: Mapping[str, JsonValue]) -> Evaluator:
    """The evaluator that `spec` describes. Case, `_` and `-` do not count in its name: `ExactMatch`, `exact_match`.

    Raises:
        ConfigurationError: no such evaluator or option, or a value that the option does not take.
    """
    return _build(spec, depth=0)


def check_template(template: PromptTemplate) -> None:
    """Called through the `route_switch.template_checks` entry point when a template is registered.

    Raises:
        ConfigurationError: its evaluator section describes none.
    """
    if template.evaluator:
        build_evaluator(template.evaluator)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _WeightedOptions:
    parts: tuple[JsonObject, ...]
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _PartOptions:
    evaluator: JsonObject
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


def _build(spec: Mapping[str, JsonValue], *, depth: int) -> Evaluator:
    name = spec.get("name")
    if not isinstance(name, str):
        raise ConfigurationError(f"An evaluator needs a `name`, not {name!r}: one of {', '.join(AVAILABLE)}.")
    options = {key: value for key, value in spec.items() if key != "name"}
    kind = name.replace("_", "").replace("-", "").replace(" ", "").lower()
    if kind == "weighted":
        return _weighted(options, depth=depth)
    builder = _BUILDERS.get(kind)
    if builder is None:
        raise ConfigurationError(f"There is no evaluator {name!r}: there are {', '.join(AVAILABLE)}.")
    return builder(options)


def _plain(name: str, evaluator: type[Evaluator]) -> Callable[[JsonObject], Evaluator]:
    return lambda options: _convert(name, options, evaluator)


def _similarity(options: JsonObject) -> Evaluator:
    return Similarity(_convert("Similarity", options, SimilarityOptions))


def _weighted(options: JsonObject, *, depth: int) -> Evaluator:
    if depth >= _MAX_DEPTH:
        raise ConfigurationError(f"Weighted evaluators are nested more than {_MAX_DEPTH} deep.")
    read = _convert("Weighted", options, _WeightedOptions)
    parts = [_convert("Weighted part", part, _PartOptions) for part in read.parts]
    return Weighted(
        parts=tuple((_build(part.evaluator, depth=depth + 1), part.weight) for part in parts), threshold=read.threshold
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


_BUILDERS: Mapping[str, Callable[[JsonObject], Evaluator]] = {
    "exactmatch": _plain("ExactMatch", ExactMatch),
    "exact": _plain("ExactMatch", ExactMatch),
    "keywordmatch": _plain("KeywordMatch", KeywordMatch),
    "keyword": _plain("KeywordMatch", KeywordMatch),
    "jsonmatch": _plain("JsonMatch", JsonMatch),
    "json": _plain("JsonMatch", JsonMatch),
    "numeric": _plain("Numeric", Numeric),
    "regex": _plain("Regex", Regex),
    "similarity": _similarity,
}
