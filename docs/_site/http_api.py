"""The reference of the HTTP API, from the OpenAPI document that the gateway answers with."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pymdownx.slugs import slugify

from docs._site.schemas import Schema, in_words, reference
from rs_gateway.api.edge import OPERATIONS, PUBLIC
from rs_gateway.api.errors import status_of_kind
from rs_gateway.api.examples import Example, examples
from rs_gateway.app import create_app
from rs_gateway.domain.errors import ProviderOverloadedError, ProviderRefusedError, RouteSwitchError
from rs_gateway.settings import Settings

_OPENING = """# HTTP API

Every operation of the gateway: what it takes, what it answers, an example. A running gateway shows the same at `/docs`,
and as a document for programs at `/openapi.json`.

<!-- Written by `make docs` from the gateway's OpenAPI document; change it in rs_gateway/api. -->

- `$GW` is the gateway's address, such as `http://127.0.0.1:8080`, and `$KEY` a client key. `Authorization: Bearer`,
  `x-api-key` and `api-key` are all understood ([client keys](../guides/client-keys.md)). As long as no key was ever
  made, none is needed but for `/admin`.
- Bodies are JSON. An unknown field is refused on the gateway's own routes; on OpenAI's and Anthropic's it goes to the
  provider.
- Every answer has `x-request-id`. An answer of a model has `x-route-switch-trace-id` (for `explain` and feedback),
  `x-route-switch-combination`, `x-route-switch-version` and `x-route-switch-overhead-ms` besides.
- Errors have OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, on `/v1/messages` Anthropic's. What a
  `code` means is [below](#errors).
"""
_TAGS = {
    "chat": "Chat",
    "pass-through": "Embeddings, Responses, Messages",
    "models": "Models",
    "feedback": "Feedback",
    "operations": "Figures and health",
    "admin": "Administration",
}
_UPSTREAM: Mapping[type, str] = {
    ProviderRefusedError: "the provider's 4xx",
    ProviderOverloadedError: "408, 409, 429, 502, 503 or 504",
}
_PHRASES = {
    "Successful Response": "",
    "Bad Request": "The request cannot be used.",
    "Not Found": "There is nothing of that name.",
    "Conflict": "Somebody else was faster, or nothing would change.",
    "Service Unavailable": "A store cannot be used now.",
}
"""HTTP's own words, where the document has no better ones."""
_REQUIRED = "**required**"
_FIGURES = "FiguresBody"
"""What all figures have; the others add whose they are."""
_slug = slugify(case="lower")


def http_api_page() -> str:
    """The page, in Markdown."""
    return _Book(create_app(Settings()).app.openapi()).page()


class _Book:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths: Mapping[str, Mapping[str, Any]] = document["paths"]
        self._schemas: Mapping[str, Schema] = document["components"]["schemas"]
        self._examples = {example.operation: example for example in examples()}

    def page(self) -> str:
        """All of it: operations by tag, errors, objects."""
        blocks = [_OPENING.rstrip(), self._overview()]
        for tag, title in _TAGS.items():
            blocks.append(f"## {title}")
            blocks += [self._operation(name, operation) for name, operation in self._tagged(tag)]
        blocks += ["## Errors", _errors(), "## Objects", *(self._object(name) for name in sorted(self._objects()))]
        return "\n\n".join(blocks) + "\n"

    def _tagged(self, tag: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for path, operations in self._paths.items():
            for method, operation in operations.items():
                if operation["tags"] == [tag]:
                    yield f"{method.upper()} {path}", operation

    def _overview(self) -> str:
        rows = [
            (f"[`{name}`](#{_slug(name, '-')})", operation["summary"])
            for tag in _TAGS
            for name, operation in self._tagged(tag)
        ]
        return _table(("operation", "what it is for"), rows)

    def _operation(self, name: str, operation: Mapping[str, Any]) -> str:
        path = name.partition(" ")[2]
        blocks = [f"### `{name}`", f"{operation['summary']}.", operation.get("description", ""), _who(path)]
        if operation.get("parameters"):
            blocks += ["**Parameters**", self._parameters(operation["parameters"])]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if body is not None and "properties" in self._resolved(body):
            blocks += ["**Body**", self._fields(self._resolved(body))]
        blocks.append("**Answers**")
        blocks.append(
            _table(
                ("status", "when, and what is answered"),
                [self._answer(*answer) for answer in sorted(operation["responses"].items())],
            )
        )
        blocks.append(_shown(self._examples[name]))
        return "\n\n".join(block for block in blocks if block)

    def _parameters(self, parameters: Iterable[Mapping[str, Any]]) -> str:
        rows = [
            (f"`{p['name']}`", f"in the {p['in']}", in_words(p["schema"], self._schemas), p.get("description", ""))
            for p in parameters
        ]
        return _table(("name", "where", "what it may be", "meaning"), rows)

    def _fields(self, schema: Schema) -> str:
        rows = [self._field(name, field, schema) for name, field in schema["properties"].items()]
        head = ("field", "what it may be", "default", "meaning")
        if all(default == _REQUIRED for _, _, default, _ in rows):
            return _table(head[:2] + head[3:], (row[:2] + row[3:] for row in rows))
        return _table(head, rows)

    def _field(self, name: str, field: Schema, schema: Schema) -> tuple[str, str, str, str]:
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        needed = _REQUIRED if name in schema.get("required", ()) and "default" not in field else default
        return f"`{name}`", in_words(field, self._schemas), needed, field.get("description", "")

    def _answer(self, status: str, answer: Mapping[str, Any]) -> tuple[str, str]:
        content: Mapping[str, Any] = answer.get("content", {})
        bodies = [
            in_words(c.get("schema", {}), self._schemas) for c in content.values() if reference(c.get("schema", {}))
        ]
        said = _PHRASES.get(answer["description"], answer["description"]) or ("" if bodies else "As in the example.")
        return ("other" if status == "default" else status), " ".join(part for part in (said, *bodies) if part)

    def _object(self, name: str) -> str:
        schema = self._schemas[name]
        meaning = " ".join(schema.get("description", "").split())
        common = self._schemas[_FIGURES]["properties"]
        if name != _FIGURES and common.items() <= schema["properties"].items():
            meaning += f" As [{_FIGURES}](#{_FIGURES.lower()}), and:"
            own = {field: value for field, value in schema["properties"].items() if field not in common}
            schema = {**schema, "properties": own}
        return f"### {name}\n\n{meaning}\n\n{self._fields(schema)}"

    def _objects(self) -> set[str]:
        """Objects that an operation answers, or that stand in its body or its answer."""
        found: set[str] = set()
        operations = [operation for operations in self._paths.values() for operation in operations.values()]
        waiting = [name for operation in operations for name in _references(operation["responses"])]
        for operation in operations:
            for body in _references(operation.get("requestBody")):
                waiting += _references(self._schemas[body])
        while waiting:
            name = waiting.pop()
            if name not in found and "properties" in self._schemas[name]:
                found.add(name)
                waiting += _references(self._schemas[name])
        return found

    def _resolved(self, schema: Schema) -> Schema:
        name = reference(schema)
        return schema if name is None else self._schemas[name]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "$ref":
                yield str(item).rsplit("/", 1)[-1]
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _who(path: str) -> str:
    if path in PUBLIC:
        return "Needs no key."
    if path.startswith("/admin"):
        return "Needs a key with the admin scope, always."
    if path.startswith(OPERATIONS):
        return "Needs a key with the admin scope, as soon as there are keys."
    return "Needs a client key, as soon as there are keys."


def _shown(example: Example) -> str:
    """The request as a command, and its answer."""
    method, _, pattern = example.operation.partition(" ")
    query = "".join(f"?{name}={value}" for name, value in example.query.items())
    implied = "GET" if example.body is None else "POST"
    command = "curl -s" if method == implied else f"curl -s -X {method}"
    lines = [f'{command} "$GW{pattern.format_map(example.path)}{query}"']
    if pattern not in PUBLIC:
        lines.append('-H "authorization: Bearer $KEY"')
    if example.body is not None:
        lines += ["-H 'content-type: application/json'", f"-d {shlex.quote(_json(example.body))}"]
    text = "**Example**\n\n```bash\n" + " \\\n  ".join(lines) + "\n```"
    return text if example.answer is None else f"{text}\n\n```json\n{_json(example.answer)}\n```"


def _json(value: Any, indent: str = "") -> str:
    """JSON in as few lines as can be read: what fits into one stays in one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= 100 or not isinstance(value, dict | list) or not value:
        return line
    further = indent + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_json(item, further)}" for key, item in value.items()]
    else:
        items = [_json(item, further) for item in value]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    return f"{opening}\n{further}" + f",\n{further}".join(items) + f"\n{indent}{closing}"


def _errors() -> str:
    rows = sorted(
        (_UPSTREAM.get(kind) or str(status), f"`{kind.code}`", _first_words(kind))
        for kind in _kinds(RouteSwitchError)
        if "code" in vars(kind) and (status := status_of_kind(kind)) is not None
    )
    return _table(("status", "code", "when"), rows)


def _kinds(kind: type[RouteSwitchError]) -> Iterator[type[RouteSwitchError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("rs_gateway.domain."):
            yield child
            yield from _kinds(child)


def _first_words(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines
    )
