"""Errors as the OpenAI API tells them: a status, a type, and Sapwood's own code and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from sapwood.errors import ConfigError, DataError, ModelError, ResourceError, SapwoodError
from sapwood.pool.wish import Busy
from sapwood.serving.disk import FULL, for_askers

# Codes whose class says too little of whose fault it is.
_STATUS = {
    "E-CONFIG-280": 404,  # no such model
    "E-CONFIG-294": 401,
    "E-CONFIG-295": 403,
    "E-CONFIG-296": 403,
    "E-CONFIG-297": 413,
    "E-CONFIG-299": 404,
    "E-CONFIG-300": 415,
    "E-CONFIG-301": 408,
    "E-CONFIG-303": 404,
    "E-CONFIG-304": 409,
    "E-CONFIG-306": 405,
    "E-RESOURCE-076": 504,
    FULL: 507,
}
_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip
GONE = 499  # as nginx calls a client that left; only logs and meters see it


class ClientGone(Exception):
    """The client left before it was answered."""


def status_of(error: SapwoodError) -> int:
    """Return the HTTP status that tells whose turn it is."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    if isinstance(error, Busy):
        return 429
    if isinstance(error, ConfigError | DataError | ModelError):
        return 400
    return 503 if isinstance(error, ResourceError) else 500


def body_of(error: SapwoodError, param: str | None = None) -> dict[str, Any]:
    """Return an error in the shape of the OpenAI API; `param`: the entry that it is about."""
    status, error = status_of(error), for_askers(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": clean(str(error)), "type": kind, "param": param, "code": error.code}
    return {"error": told}


def response_of(error: SapwoodError, param: str | None = None) -> JSONResponse:
    """Return the response that tells an error."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(max(1, math.ceil(error.after)))
    elif status == 503:
        headers["Retry-After"] = "5"
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error, param), status_code=status, headers=headers)


def clean(text: str) -> str:
    """Return text that UTF-8 can carry: half characters in a request come back as "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def unforeseen() -> SapwoodError:
    """Return what a client hears of an error that nobody foresaw: nothing of its content."""
    return SapwoodError(
        "E-INTERNAL-001",
        "The server met something it does not foresee.",
        fix="tell whoever runs it, with the X-Request-Id of this answer",
    )


def documented(*statuses: int) -> Mapping[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of the errors of a route."""
    shape = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
            }
        },
    }
    told = {"description": "See error.message.", "content": {"application/json": {"schema": shape}}}
    return dict.fromkeys((*statuses, "4XX"), told)  # with 4XX, FastAPI tells of no 422 of its own
