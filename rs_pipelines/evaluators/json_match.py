"""JsonMatch: which of the expected fields the answer's JSON holds."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeAlias

import msgspec
from jsonschema import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from rs_gateway.domain.chat import JsonObject, JsonValue
from rs_gateway.domain.errors import ConfigurationError
from rs_gateway.domain.evaluation import Answer, Score
from rs_pipelines.evaluators.comparable import comparable

_FENCE = re.compile(r"\A```[a-zA-Z]*\n(.*)\n```\Z", re.DOTALL)
_Field: TypeAlias = tuple[str, str, object]
"""Path, type and value of one scalar."""


@dataclass(frozen=True, kw_only=True)
class JsonMatch:
    """F1 of the scalar fields, each a path with its value; 0 for what is no JSON or breaks the schema.

    Attributes:
        exact: all or nothing instead of F1; then the order of lists counts too.
        schema: JSON Schema that the output must obey; it is not fetched from anywhere.
        allow_fence: whether JSON inside a Markdown code fence counts as JSON.
        threshold: F1 from which an answer passes.
    """

    exact: bool = False
    schema: JsonObject | None = None
    case_sensitive: bool = False
    allow_fence: bool = False
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    name: str = field(default="json_match/1", init=False)

    def __post_init__(self) -> None:
        if self.schema is not None:
            try:
                validator_for(self.schema).check_schema(self.schema)
            except SchemaError as error:
                raise ConfigurationError(f"JsonMatch: `schema` is no JSON Schema: {error.message}") from error

    def score(self, answers: Sequence[Answer]) -> list[Score]:
        """F1, or 1 and 0 when `exact`, for each answer."""
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> Score:
        try:
            expected = _parse(answer.expected)
        except (ValueError, RecursionError):
            return self._wrong("the expected text is no JSON")
        try:
            output = _parse(self._unfenced(answer.output))
            if broken := self._breaks_schema(output):
                return self._wrong(broken)
        except ValueError as error:
            return self._wrong(f"no JSON: {error}")
        except RecursionError:
            return self._wrong("nested too deeply")
        return self._compare(self._fields(output), self._fields(expected))

    def _compare(self, got: Counter[_Field], wanted: Counter[_Field]) -> Score:
        shared = (got & wanted).total()
        value = 2 * shared / (got.total() + wanted.total())
        if self.exact:
            value = float(value == 1)
        missing = sorted({path or "the value" for path, _, _ in wanted - got})
        extra = sorted({path or "the value" for path, _, _ in got - wanted} - set(missing))
        parts = (f"wrong or missing: {', '.join(missing)}" * bool(missing), f"extra: {', '.join(extra)}" * bool(extra))
        return Score(value, value >= self.threshold, "; ".join(p for p in parts if p)[:500], self.name)

    def _wrong(self, explanation: str) -> Score:
        return Score(0.0, self.threshold <= 0, explanation[:500], self.name)

    def _unfenced(self, text: str) -> str:
        fenced = _FENCE.match(text.strip()) if self.allow_fence else None
        return text if fenced is None else fenced[1]

    def _breaks_schema(self, output: JsonValue) -> str:
        """What is wrong with the output, empty when nothing is."""
        if self._validator is None:
            return ""
        try:
            self._validator.validate(output)
        except ValidationError as error:
            return f"breaks the schema at {error.json_path}: {error.message}"
        except Unresolvable as error:
            raise ConfigurationError(f"JsonMatch: `schema` refers to what it does not hold: {error}") from error
        return ""

    @cached_property
    def _validator(self) -> Any:
        return None if self.schema is None else validator_for(self.schema)(self.schema, registry=Registry())

    def _fields(self, value: JsonValue) -> Counter[_Field]:
        """All scalars; an empty object or list counts as one, so that nothing is ever without a field."""
        fields: Counter[_Field] = Counter()
        pending: list[tuple[str, JsonValue]] = [("", value)]
        while pending:
            path, item = pending.pop()
            if isinstance(item, Mapping) and item:
                pending.extend((f"{path}.{key}" if path else str(key), child) for key, child in item.items())
            elif isinstance(item, list) and item:
                pending.extend((f"{path}[{i if self.exact else ''}]", child) for i, child in enumerate(item))
            else:
                fields[(path, *self._scalar(item))] += 1
        return fields

    def _scalar(self, item: JsonValue) -> tuple[str, object]:
        if isinstance(item, str):
            return "string", comparable(item, case_sensitive=self.case_sensitive, whitespace_sensitive=self.exact)
        if isinstance(item, bool) or item is None:
            return "literal", item
        return ("number", item) if isinstance(item, int | float) else (type(item).__name__, "empty")


def _parse(text: str) -> JsonValue:
    def refuse_constant(name: str) -> JsonValue:
        raise ValueError(f"{name} is no JSON value")

    return json.loads(text, parse_constant=refuse_constant)
