"""An example of every operation, as `/docs` and the documentation show them."""

from importlib.resources import files
from typing import Any

import msgspec


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One request and what it was answered.

    Attributes:
        operation: method and path, as the OpenAPI document has it: `PATCH /admin/keys/{key_id}`.
        path: parameter of the path -> value.
        answer: None where it is long, or no JSON.
    """

    operation: str
    status: int = 200
    path: dict[str, str] = {}
    query: dict[str, str] = {}
    body: dict[str, Any] | None = None
    answer: Any = None


def examples() -> list[Example]:
    """In an order in which they can be sent to a gateway that serves a template `support`."""
    return msgspec.json.decode(files("rs_gateway.api").joinpath("examples.json").read_bytes(), type=list[Example])
