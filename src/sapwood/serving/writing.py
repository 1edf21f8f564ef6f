"""`/v1/completions` and `/v1/chat/completions`: answers that are written."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sapwood.pool.wish import Update, Wish
from sapwood.serving.asked import Chat, Completion, Written
from sapwood.serving.desk import Desk
from sapwood.serving.feed import Feed, while_there
from sapwood.serving.refusals import documented
from sapwood.serving.shapes import Answer, ChatShape, CompletionShape, Shape
from sapwood.serving.streams import Part, Stream
from sapwood.serving.visits import Visit, visit_of
from sapwood.serving.wishes import chat_wish, completion_wishes, wants_logs

_STREAMED: dict[str, Any] = {"content": {"text/event-stream": {}}}  # besides JSON
_ERRORS = documented(400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)


def routes(desk: Desk) -> APIRouter:
    """Return the routes over a desk."""
    router = APIRouter(tags=["writing"], responses={**_ERRORS, 200: _STREAMED})

    @router.post("/v1/completions")
    async def completions(body: Completion, request: Request) -> Response:
        """Continue texts, or ask an adaptation about them."""
        model = await _model(desk, body, request)
        shape = CompletionShape(model, logs=wants_logs(body), usage=_with_usage(body))
        return await _answer(desk, request, body, completion_wishes(body, model), shape)

    @router.post("/v1/chat/completions")
    async def chat_completions(body: Chat, request: Request) -> Response:
        """Answer a conversation."""
        model = await _model(desk, body, request)
        shape = ChatShape(model, logs=wants_logs(body), usage=_with_usage(body))
        return await _answer(desk, request, body, [chat_wish(body, model)], shape)

    return router


async def _model(desk: Desk, body: Written, request: Request) -> str:
    model = visit_of(request.scope).model = await desk.model(body.model)
    return model


def _with_usage(body: Written) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


async def _answer(
    desk: Desk, request: Request, body: Written, wishes: Sequence[Wish], shape: Shape
) -> Response:
    visit = visit_of(request.scope)
    until = visit.arrived + desk.settings.limits.seconds
    feed = Feed(wishes, visit, desk.meters)
    feed.begin(desk.engine)
    streamed = False
    try:
        updates = aiter(feed)
        if body.stream:
            # The first update decides the status: what cannot be answered is told by one.
            first = await while_there(request.receive, _next(updates), _left(until))
            parts = _parts(first, updates, shape, visit, _with_usage(body))
            streamed = True
            return Stream(parts, until=until, release=feed.cancel)
        choices = sum(wish.sampling.samples for wish in wishes)
        answers = await while_there(request.receive, _whole(updates, choices), _left(until))
        return JSONResponse(shape.whole(answers, visit))
    finally:
        if not streamed:
            feed.cancel()


def _left(until: float) -> float:
    return until - time.perf_counter()


async def _next(updates: AsyncIterator[tuple[int, Update]]) -> tuple[int, Update]:
    return await anext(updates)


async def _whole(updates: AsyncIterator[tuple[int, Update]], choices: int) -> list[Answer]:
    answers = [Answer() for _ in range(choices)]
    async for choice, update in updates:
        answers[choice].add(update)
    return answers


async def _parts(
    first: tuple[int, Update],
    rest: AsyncIterator[tuple[int, Update]],
    shape: Shape,
    visit: Visit,
    usage: bool,
) -> AsyncIterator[Part]:
    begun: set[int] = set()

    def pieces(choice: int, update: Update) -> list[dict[str, Any]]:
        found = [shape.begin(choice)] if choice not in begun else []
        begun.add(choice)
        if update.text or update.logs or update.finish:
            found.append(shape.piece(choice, update))
        return [piece for piece in found if piece is not None]

    for piece in pieces(*first):
        yield piece
    async for choice, update in rest:
        for piece in pieces(choice, update):
            yield piece
    if usage:
        yield shape.end(visit)
