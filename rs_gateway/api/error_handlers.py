"""FastAPI's own errors in OpenAI's shape."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rs_gateway.api.errors import INTERNAL_ERROR, body_of, error_body, error_type, headers_of, status_of
from rs_gateway.domain.errors import RouteSwitchError

_SHOWN_CHARACTERS = 200


def add_error_handlers(app: FastAPI) -> None:
    """Every error of every route, 404 and 405 included."""
    app.add_exception_handler(RouteSwitchError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RouteSwitchError)
    return _json(status_of(error), body_of(error), headers_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.url.path[:_SHOWN_CHARACTERS]
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers={"allow": f"{headers.get('Allow', '')}, OPTIONS".lstrip(", ")})
    words = {
        # FastAPI says this, and no more, of a body in which it cannot even look for JSON.
        400: "The body cannot be used: it is no JSON in UTF-8.",
        404: f"There is no {path} here. See /docs for what there is.",
        405: f"{request.method} is not allowed on {path}.",
    }
    code = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = words.get(error.status_code, str(error.detail))
    body = error_body(message, kind=error_type(error.status_code), param=None, code=code)
    return _json(error.status_code, body, headers)


async def _invalid_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    unreadable = first["type"] == "json_invalid"
    where = "" if unreadable else ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    where = where[:_SHOWN_CHARACTERS]
    if not where and isinstance(first["input"], bytes):  # it was not even tried as JSON
        message = "The body is read as JSON only with the header `content-type: application/json`."
    elif where:
        message = f"`{where}`: {first['msg']}."
    else:
        message = f"The body cannot be used: {first['msg']}."
    body = error_body(message, kind="invalid_request_error", param=where or None, code="invalid_request")
    return _json(400, body, {})


async def _unexpected(_: Request, error: Exception) -> Response:
    # Starlette raises it once more after this answer, so that the outermost loop logs it.
    return _json(500, INTERNAL_ERROR, {})


def _json(status_code: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status_code, headers, media_type="application/json")
