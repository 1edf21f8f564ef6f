"""Server-sent events: an answer as it is written, until it ends, is too late or nobody listens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sapwood.errors import SapwoodError
from sapwood.serving.feed import left, too_late
from sapwood.serving.refusals import ClientGone, body_of, unforeseen
from sapwood.serving.visits import visit_of

_LAST_WORDS = 5.0  # seconds in which a client that reads slowly may still take the end
Part = dict[str, Any]


class Stream(Response):
    """Sends `parts` until they end, `until` (perf_counter) is over, or the client leaves.

    `release` is called in any case. An error on the way is an event like the others, since the
    status is long sent; the OpenAI client raises it. Only what ends well, or by an error that was
    told, ends with [DONE].
    """

    media_type = "text/event-stream"

    def __init__(
        self, parts: AsyncIterator[Part], *, until: float, release: Callable[[], None]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._parts, self._until, self._release = parts, until, release
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        visit = visit_of(scope)
        pumping = asyncio.ensure_future(self._pump(send))
        leaving = asyncio.ensure_future(left(receive))
        try:
            time_left = max(0.0, self._until - time.perf_counter())
            await asyncio.wait(
                {pumping, leaving}, timeout=time_left, return_when=asyncio.FIRST_COMPLETED
            )
            if not pumping.done() and leaving.done():
                raise ClientGone
            error = too_late() if not pumping.done() else _told(pumping.exception())
            if error is not None:
                visit.code = error.code
                pumping.cancel()
                self._release()
                async with asyncio.timeout(_LAST_WORDS):
                    await send(_event(json.dumps(body_of(error), ensure_ascii=False)))
            async with asyncio.timeout(_LAST_WORDS):
                await send(_event("[DONE]"))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            raise ClientGone from None
        finally:
            self._release()
            for task in (pumping, leaving):
                task.cancel()
            await asyncio.gather(pumping, leaving, return_exceptions=True)

    async def _pump(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for part in self._parts:
            await send(_event(json.dumps(part, ensure_ascii=False)))


def _told(error: BaseException | None) -> SapwoodError | None:
    if error is None or isinstance(error, SapwoodError):
        return error
    return unforeseen()


def _event(data: str) -> dict[str, Any]:
    body = f"data: {data}\n\n".encode("utf-8", "replace")
    return {"type": "http.response.body", "body": body, "more_body": True}
