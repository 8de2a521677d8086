"""What is wrong with a configuration, in the words of whoever wrote the YAML, not in pydantic's."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rs_gateway.domain.wording import closest

_EXPECTED: Mapping[str, str] = {
    "string_type": "should be text, in quotes where it looks like a number",
    "dict_type": "should be a section: lines of `name: value` below it",
    "model_type": "should be a section: lines of `name: value` below it",
    "tuple_type": "should be a list, such as [a, b]",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
}
"""pydantic's name of a wrong type -> what is expected."""
_KINDS: Mapping[type, str] = {dict: "a section", list: "a list", str: "this text", type(None): "empty"}
_SECRET = frozenset({"api_key", "base_url", "stores", "otlp_endpoint", "otlp_headers", "broker"})
"""Keys whose values are not quoted: they may hold what no log should."""
_QUOTED_CHARACTERS = 60


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each fault: its place, what is wrong, what is expected."""
    return [_explain(item, model) for item in error.errors()]


def _explain(item: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        meant = closest(str(item["loc"][-1]), _siblings(item["loc"], model))
        return f"{place}: unknown key; " + (f"did you mean {meant!r}?" if meant else "nothing here has that name.")
    if item["type"] == "missing":
        return f"{place}: is missing, and has no default"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in _EXPECTED:
        message = f"{_EXPECTED[item['type']]}, not {_shown(item['input'], item['loc'])}"
    return f"{place}: {message}" if place else message


def _shown(value: object, location: tuple[int | str, ...]) -> str:
    """A value, where it is short and stands where no secret does; else what kind it is."""
    text = isinstance(value, str) and len(value) <= _QUOTED_CHARACTERS and not _SECRET & {*map(str, location)}
    return repr(value) if text or isinstance(value, bool | int | float) else _KINDS.get(type(value), "this")


def _siblings(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    found: Any = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        fields = getattr(found, "model_fields", None)
        if fields is None or part not in fields:
            continue
        annotation = fields[part].annotation
        models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        found = models[0] if models else found
    return list(found.model_fields)
