"""Errors as responses: one JSON object with a message for a person."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from imgsim_assets.errors import ImgsimError, SettingsError, StoreError, describe_error
from imgsim_assets.invalid_values import problem
from imgsim_assets.text import printable_line

_log = logging.getLogger(__name__)


class NotFoundError(StoreError):
    """The store has no such table, item or image."""


class GoneError(StoreError):
    """A version that a client asks for was deleted."""


class OverloadedError(ImgsimError):
    """Too much of the same work is waiting."""


class Problem(BaseModel):
    """Why a request failed."""

    detail: str = Field(description="the problem and its fix, for a person")


# What the OpenAPI document says of every path.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        401: "the token is missing or wrong",
        403: "another site caused the request",
        404: "the store has no such thing",
        408: "the request took too long",
        410: "the version was deleted",
        413: "the body is too large",
        421: "the Host header is not a name of this service",
        422: "the request is not valid",
        503: "the store cannot be read, or too much is waiting; try again",
    }.items()
}

# In words of this API, by the type of pydantic's error.
_MESSAGES = {"extra_forbidden": "there is no such parameter here; /openapi.json lists them"}


def add_handlers(app: FastAPI) -> None:
    """Answer the errors of this package with their message and a status."""
    app.add_exception_handler(ImgsimError, _answer)
    app.add_exception_handler(OSError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    by_type: list[tuple[type[Exception], int]] = [
        (NotFoundError, 404),
        (GoneError, 410),
        (OverloadedError, 503),
        (SettingsError, 422),
        (StoreError, 503),
        (ImgsimError, 422),
    ]
    return next((status for kind, status in by_type if isinstance(error, kind)), 503)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    status = status_of(error)
    if status >= 500:
        _log.warning("%s %s: %s", request.method, request.url.path, describe_error(error))
    headers = {"Retry-After": "1"} if status == 503 else None
    # The message of an error of the system names paths of this machine.
    detail = str(error) if isinstance(error, ImgsimError) else "the store cannot be read"
    return JSONResponse({"detail": detail}, status, headers)


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """The first problem of a request, which names the field and does not repeat its value."""
    if not isinstance(error, RequestValidationError):
        raise AssertionError("this handler is of one error")
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    message = _MESSAGES.get(first["type"]) or problem(first, value="the value")
    detail = f"{field}: {message}" if field else message
    return JSONResponse({"detail": printable_line(detail, 500)}, 422)
