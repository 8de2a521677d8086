"""JSON Schema in words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]


def reference(schema: Schema) -> str | None:
    """The name of the definition that a schema stands for, alone or beside null."""
    named: Sequence[Schema] = [schema, *schema.get("anyOf", ()), *schema.get("allOf", ())]
    return next((str(s["$ref"]).rsplit("/", 1)[-1] for s in named if "$ref" in s), None)


def in_words(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """What a value may be: `number over 0`, `list of text`, `` one of `light`, `heavy` ``."""
    name = reference(schema)
    if name is not None and "anyOf" not in schema:
        definition = definitions[name]
        return in_words(definition, definitions) if "enum" in definition else f"[{name}](#{name.lower()})"
    if "anyOf" in schema and "enum" not in schema:
        return " or ".join(in_words(choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(f"`{_plain(value)}`" for value in values)
    kinds = schema.get("type", "anything")
    if isinstance(kinds, list):
        return " or ".join(in_words({**schema, "type": kind}, definitions) for kind in kinds)
    return _of_kind(kinds, schema, definitions)


def _of_kind(kind: str, schema: Schema, definitions: Mapping[str, Schema]) -> str:
    match kind:
        case "integer" | "number":
            return {"integer": "whole number", "number": "number"}[kind] + _range(schema)
        case "string":
            return _text(schema)
        case "boolean":
            return "true or false"
        case "array":
            items = schema.get("items", {})
            words = in_words(items, definitions) if items else "anything"
            return f"list of {words.removeprefix('one of ')}"
        case "object":
            values = schema.get("additionalProperties")
            return f"object of {in_words(values, definitions)}" if isinstance(values, dict) and values else "object"
        case _:
            return kind


def _range(schema: Schema) -> str:
    low = f"of at least {schema['minimum']:.15g}" if "minimum" in schema else ""
    high = f"of at most {schema['maximum']:.15g}" if "maximum" in schema else ""
    if low and high:
        return f" from {schema['minimum']:.15g} to {schema['maximum']:.15g}"
    low = low or (f"over {schema['exclusiveMinimum']:.15g}" if "exclusiveMinimum" in schema else "")
    high = high or (f"below {schema['exclusiveMaximum']:.15g}" if "exclusiveMaximum" in schema else "")
    both = " and ".join(part for part in (low, high) if part)
    return f" {both}" if both else ""


def _text(schema: Schema) -> str:
    words = {"path": "path", "password": "text, a secret", "date-time": "time with its zone"}
    kind = words.get(schema.get("format", ""), "text")
    if "pattern" in schema:
        return f"{kind} like `{schema['pattern']}`"
    return f"non-empty {kind}" if schema.get("minLength") else kind


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
