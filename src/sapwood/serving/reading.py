"""`/v1/classify`, `/v1/extract` and `/v1/embeddings`: texts that are read."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sapwood.interfaces import Answer, Frame, Span
from sapwood.pool.wish import Found
from sapwood.serving.answered import Classified, Extracted, Vectors
from sapwood.serving.asked import Embedded, Read
from sapwood.serving.desk import Desk
from sapwood.serving.feed import while_there
from sapwood.serving.refusals import documented
from sapwood.serving.visits import visit_of

T = TypeVar("T")
_ERRORS = documented(400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)


def routes(desk: Desk) -> APIRouter:
    """Return the routes over a desk."""
    router = APIRouter(tags=["reading"], responses=dict(_ERRORS))

    @router.post("/v1/classify", responses={200: {"model": Classified}})
    async def classify(body: Read, request: Request) -> Response:
        """Return the labels of texts with their probabilities, the most probable first."""
        model, texts = await _model(desk, body, request), _texts(body)
        found = await _soon(desk, request, desk.engine.classify(model, texts))
        data = [{"index": number, **_labels(row)} for number, row in enumerate(found.values)]
        return _listed(request, data, found)

    @router.post("/v1/extract", responses={200: {"model": Extracted}})
    async def extract(body: Read, request: Request) -> Response:
        """Return what texts say, with the characters where they say it."""
        model, texts = await _model(desk, body, request), _texts(body)
        found = await _soon(desk, request, desk.engine.extract(model, texts))
        data = [
            {"index": number, **_frames(text, answer)}
            for number, (text, answer) in enumerate(zip(texts, found.values, strict=True))
        ]
        return _listed(request, data, found)

    @router.post("/v1/embeddings", responses={200: {"model": Vectors}})
    async def embeddings(body: Embedded, request: Request) -> Response:
        """Return a vector for each text."""
        model, texts = await _model(desk, body, request), _texts(body)
        found = await _soon(desk, request, desk.engine.embed(model, texts))
        packed = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": number, "embedding": _packed(v) if packed else v}
            for number, v in enumerate(found.values)
        ]
        return _listed(request, data, found)

    return router


async def _model(desk: Desk, body: Read | Embedded, request: Request) -> str:
    model = visit_of(request.scope).model = await desk.model(body.model)
    return model


def _texts(body: Read | Embedded) -> list[str]:
    return [body.input] if isinstance(body.input, str) else list(body.input)


async def _soon(desk: Desk, request: Request, answer: Future[T]) -> T:
    """Return what the engine answers, unless the client leaves or it takes too long."""

    async def waiting() -> T:
        return await asyncio.wrap_future(answer)

    until = visit_of(request.scope).arrived + desk.settings.limits.seconds
    return await while_there(request.receive, waiting(), until - time.perf_counter())


def _listed(request: Request, data: list[dict[str, Any]], found: Found[Any]) -> Response:
    """Return an answer with its usage, which the log and the meters hear of, too."""
    visit = visit_of(request.scope)
    visit.prompt, visit.cached, visit.written = found.prompt, found.cached or 0, found.written
    usage: dict[str, Any] = {
        "prompt_tokens": found.prompt,
        "total_tokens": found.prompt + found.written,
    }
    if found.written:
        usage["completion_tokens"] = found.written
    if found.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": found.cached}
    return JSONResponse({"object": "list", "model": visit.model, "data": data, "usage": usage})


def _labels(row: dict[str, float]) -> dict[str, Any]:
    ordered = sorted(row.items(), key=lambda item: -item[1])
    labels = [{"label": label, "probability": value} for label, value in ordered]
    return {"label": ordered[0][0] if ordered else None, "labels": labels}


def _frames(text: str, answer: Answer) -> dict[str, Any]:
    return {"frames": [_frame(text, frame) for frame in answer.frames], "words": answer.words}


def _frame(text: str, frame: Frame) -> dict[str, Any]:
    return {
        "label": frame.label,
        "head": _span(text, frame.head) if frame.head else None,
        "arguments": [_span(text, span) for span in frame.arguments],
    }


def _span(text: str, span: Span) -> dict[str, Any]:
    words = text[span.start : span.end]
    return {"start": span.start, "end": span.end, "label": span.label, "text": words}


def _packed(vector: list[float]) -> str:
    """Return a vector as the API packs it: little-endian float32 in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
