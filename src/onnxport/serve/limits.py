"""What happens around every request: limits of body, queue and time, and numbers for Prometheus."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from onnxport.serve.jobs import ServeSettings

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]
# Paths whose requests are work for the model; others (health, metrics, the page) are answered at any load.
_GONE = 499  # in the numbers for Prometheus: as nginx has it
_WORK = ("/predict", "/v1/", "/v2/models/")


class _TooLarge(Exception):
    """The body is longer than allowed."""


class Limits:
    """ASGI middleware: 413 for a long body, 429 for more requests than fit into the queue, 504 after the time limit.

    Args:
        app: the server.
        settings: `queue`, `max_body` and `timeout`.
    """

    def __init__(self, app: _App, settings: ServeSettings) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._app, self._settings = app, settings
        self._at_once = 0
        self.count = Counter("onnxport_requests", "Answered requests.", ["path", "status"])
        self.seconds = Histogram(
            "onnxport_request_seconds", "Time from request to answer.", ["path"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )  # fmt: skip
        self.running = Gauge("onnxport_requests_running", "Requests that are worked on or wait.")

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(_WORK):
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        reply = _Reply(send)
        if self._at_once >= self._settings.queue:
            await reply.refuse(429, "The queue is full.", ("retry-after", "1"))
        else:
            self._at_once += 1
            self.running.inc()
            try:
                await self._limited(scope, receive, reply)
            finally:
                self._at_once -= 1
                self.running.dec()
        path = _pattern(scope)
        self.count.labels(path, str(reply.status)).inc()
        self.seconds.labels(path).observe(time.perf_counter() - begun)

    async def _limited(self, scope: _Message, receive: _Receive, reply: _Reply) -> None:
        most, seconds = self._settings.max_body, self._settings.timeout
        try:
            body = await asyncio.wait_for(_read(scope, receive, most), seconds)
        except _TooLarge:
            await reply.refuse(413, f"The body is longer than {most} bytes.", ("connection", "close"))
            return
        except TimeoutError:
            await reply.refuse(408, f"The body did not arrive in {seconds:g} s.", ("connection", "close"))
            return
        if body is None:  # the client went away
            return
        given = False
        gone = asyncio.ensure_future(_gone(receive))

        async def once() -> _Message:
            nonlocal given
            if given:
                return await asyncio.shield(gone)
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        answer = asyncio.ensure_future(self._app(scope, once, reply))
        try:
            await asyncio.wait({answer, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() or reply.ended:
                await answer
            elif gone.done():  # the client went away: its place is free at once
                reply.status = _GONE
            elif reply.status:  # a stream: it ends here, without its last event
                await reply({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await reply.refuse(504, f"There was no answer within {seconds:g} s.")
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)


async def _gone(receive: _Receive) -> _Message:
    """Waits until the client has gone away, or has its answer."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


class _Reply:
    """Sends an answer, and keeps its status."""

    def __init__(self, send: _Send) -> None:
        self._send, self.status, self.ended = send, 0, False

    async def __call__(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, status: int, words: str, *headers: tuple[str, str]) -> None:
        """Answer with an error."""
        body = json.dumps({"error": {"message": words, "type": "invalid_request_error", "code": status}}).encode()
        named = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        named += [(name.encode(), value.encode()) for name, value in headers]
        await self({"type": "http.response.start", "status": status, "headers": named})
        await self({"type": "http.response.body", "body": body, "more_body": False})


async def _read(scope: _Message, receive: _Receive, most: int) -> bytes | None:
    """The body of a request; None if the client went away.

    Raises:
        _TooLarge: it is longer than `most` bytes, by its header or by what arrived.
    """
    stated = dict(scope["headers"]).get(b"content-length", b"")
    if stated.isdigit() and int(stated) > most:
        raise _TooLarge
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _TooLarge
        if not message.get("more_body"):
            return b"".join(parts)


def _pattern(scope: _Message) -> str:
    """The path without names in it: a label with any value would be a series of its own."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))
