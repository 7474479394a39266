"""The endpoints of the server: LitServe's `LitSpec`, and the `LitAPI` of its workers."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from litserve import LitAPI
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem

from onnxport.artifact.folder import Folder
from onnxport.errors import OnnxPortError, UsageError
from onnxport.serve import open_inference, openai
from onnxport.serve.jobs import Job, Piece, Reply, ServeSettings
from onnxport.serve.places import Places
from onnxport.serve.values import to_json
from onnxport.serve.worker import Worker
from onnxport.tasks import TASKS

_OURS = {"batch_size", "num_workers", "timeout"}  # settings of a call that are the server's to choose


class ModelAPI(LitAPI):
    """A worker of LitServe.

    Args:
        settings: what to load, and how large batches may be.
        spec: the endpoints; the worker sees in their places which requests are still wanted.
        streams: replies come piece by piece, and requests one after the other; else they share batches.
    """

    def __init__(self, settings: ServeSettings, spec: Endpoints, *, streams: bool) -> None:
        self._settings, self._places = settings, spec.places
        size = 1 if streams else settings.max_batch
        super().__init__(max_batch_size=size, batch_timeout=settings.batch_delay if size > 1 else 0.0, spec=spec)

    def setup(self, device: Any) -> None:
        """Load the model. Ctrl-C reaches every process of a terminal: the server ends its workers, after their work."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._worker = Worker(self._settings, self._places)
        except OnnxPortError:
            logging.disable()  # the server tells the user; LitServe would print a traceback
            raise

    def batch(self, inputs: Sequence[Job]) -> list[Job]:
        """Jobs stay a list."""
        return list(inputs)

    def predict(self, x: Any, **_: Any) -> Any:
        """Replies to jobs, to one job, or piece by piece."""
        if self.stream:
            return self._worker.write(x)
        return self._worker.run(x) if isinstance(x, list) else self._worker.run([x])[0]

    def unbatch(self, output: Any) -> Any:
        """Replies are a list already."""
        return output


class Endpoints(LitSpec):
    """What the server answers.

    Args:
        folder: what is served.
        settings: as for the worker.
        task: name of the task.
        streams: whether workers reply piece by piece.
    """

    def __init__(self, folder: Folder, settings: ServeSettings, task: str, *, streams: bool) -> None:
        super().__init__()
        self.api_path = "/predict"
        self._streams, self._task = streams, task
        self.places = Places(settings.queue)
        self._most_texts = settings.max_batch
        self._name = folder.path.resolve().name
        self._kind = next((row.kind for row in TASKS if row.name == task), "tensors")
        manifest = folder.manifest
        self._graphs = {part.name: open_inference.describe(part, manifest.versions) for part in manifest.components}
        self._main = settings.component
        self._architecture, self._begun = manifest.architecture, int(time.time())

    @property
    def stream(self) -> bool:
        return self._streams

    def pre_setup(self, lit_api: LitAPI) -> None:
        """Register the endpoints."""
        get, post = ["GET"], ["POST"]
        self.add_endpoint("/predict", self.predict, post)
        self.add_endpoint("/metrics", metrics, get)
        self.add_endpoint("/about", self.about, get)
        self.add_endpoint("/v2", self.server, get)
        self.add_endpoint("/v2/health/live", ready, get)
        self.add_endpoint("/v2/health/ready", ready, get)
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            self.add_endpoint(prefix, self.model, get)
            self.add_endpoint(f"{prefix}/ready", self.model, get)
            self.add_endpoint(f"{prefix}/infer", self.infer, post)
        self.add_endpoint("/v1/models", self.models, get)
        self.add_endpoint("/v1/embeddings", self.embeddings, post)
        self.add_endpoint("/v1/completions", self.completions, post)
        self.add_endpoint("/v1/chat/completions", self.chat, post)

    def decode_request(self, request: Job, context_kwargs: Any = None) -> Job:
        """Jobs are what workers take."""
        return request

    def encode_response(self, output: Any, context_kwargs: Any = None) -> Any:
        """Replies are what endpoints take."""
        return output

    async def about(self, request: Request) -> Response:
        """What the page shows."""
        about = {"name": self._name, "task": self._task, "kind": self._kind, "architecture": self._architecture}
        return JSONResponse(about)

    async def predict(self, request: Request) -> Response:
        """The task of the folder: {"inputs": ..., "parameters": {...}}."""
        body = await _body(request)
        if isinstance(body, Response):
            return body
        if "inputs" not in body:
            return _refused("The request has no inputs.", 'POST {"inputs": "I love it.", "parameters": {}}')
        settings = body.get("parameters") or {}
        taken = sorted(_OURS & set(settings)) if isinstance(settings, Mapping) else ["parameters"]
        if taken:
            return _refused(f"{taken[0]} cannot be set.", "Leave it out.")
        reply = await self._done(Job("call", body["inputs"], settings))
        return _failed(reply) if reply.problem else JSONResponse(to_json(reply.value))

    async def server(self, request: Request) -> Response:
        """The metadata of the server."""
        from onnxport._version import __version__

        return JSONResponse({"name": "onnxport", "version": __version__, "extensions": []})

    async def model(self, request: Request) -> Response:
        """The metadata of a graph, or that it is ready."""
        found = self._graphs.get(self._graph_name(request))
        if found is None:
            return self._unknown(request)
        return Response() if request.url.path.endswith("/ready") else JSONResponse(found)

    async def infer(self, request: Request) -> Response:
        """Run a graph on tensors."""
        name = self._graph_name(request)
        body = await _body(request)
        if isinstance(body, Response):
            return body
        if name not in self._graphs:
            return self._unknown(request)
        try:
            arrays, outputs = open_inference.read_inputs(body)
        except UsageError as error:
            return _refused(error.message, error.hint, flat=True)
        if open_inference.are_texts(arrays, self._graphs[name]):
            job = open_inference.job_of_texts(arrays, self._graphs[name], body.get("parameters"))
            reply = await self._done(job)
            made = open_inference.answers(job, reply.value)
        else:
            reply = await self._done(Job("tensors", arrays, {"graph": name, "outputs": outputs}))
            made = reply.value
        if reply.problem:
            return _failed(reply, flat=True)
        return JSONResponse(open_inference.write_outputs(name, made, body.get("id")))

    async def models(self, request: Request) -> Response:
        """The list of models, which has one."""
        one = {"id": self._name, "object": "model", "created": self._begun, "owned_by": "onnxport"}
        return JSONResponse({"object": "list", "data": [one]})

    async def embeddings(self, request: Request) -> Response:
        """Sentence embeddings."""
        body = await _body(request)
        if isinstance(body, Response):
            return body
        try:
            job, encoding = openai.read_embeddings(body)
        except UsageError as error:
            return _refused(error.message, error.hint)
        reply = await self._done(job)
        return _failed(reply) if reply.problem else JSONResponse(openai.embeddings(self._name, reply.value, encoding))

    async def completions(self, request: Request) -> Response:
        """The continuation of a text."""
        return await self._text(request, chat=False)

    async def chat(self, request: Request) -> Response:
        """The answer in a conversation."""
        return await self._text(request, chat=True)

    async def _text(self, request: Request, *, chat: bool) -> Response:
        body = await _body(request)
        if isinstance(body, Response):
            return body
        try:
            asked = openai.read_text_request(body, chat=chat)
        except UsageError as error:
            return _refused(error.message, error.hint)
        if len(asked.jobs) > self._most_texts:
            return _refused(f"There are {len(asked.jobs)} prompts.", f"At most {self._most_texts} in one request.")
        if not asked.stream:
            answers = await asyncio.gather(*(self._written(job) for job in asked.jobs))
            texts: list[list[Piece]] = []
            for answer in answers:
                if isinstance(answer, Reply):
                    return _failed(answer)
                texts.append(answer)
            return JSONResponse(openai.text_response(self._name, texts, chat=chat))
        replies = self._replies(asked.jobs[0])
        first = await anext(replies, Reply(problem="The worker ended.", ours=True))
        if first.problem:
            return _failed(first)
        return StreamingResponse(self._events(asked, first, replies), media_type="text/event-stream")

    async def _written(self, job: Job) -> list[Piece] | Reply:
        """The pieces of one text, or why there are none."""
        pieces: list[Piece] = []
        async for reply in self._replies(job):
            if reply.problem:
                return reply
            pieces += _pieces_of(reply)
        return pieces or Reply(problem="The worker ended.", ours=True)

    async def _events(
        self, asked: openai.TextRequest, first: Reply, replies: AsyncIterator[Reply]
    ) -> AsyncIterator[str]:
        """The texts of a request, one after the other."""
        events = openai.TextEvents(self._name, asked)
        for event in events.first():
            yield _event(event)
        reply: Reply | None = first
        for index, job in enumerate(asked.jobs):
            if index:
                replies = self._replies(job)
                reply = await anext(replies, None)
            while reply is not None:
                if reply.problem:
                    yield _event({"error": {"message": reply.problem}})
                    return
                for piece in _pieces_of(reply):
                    for event in events.of(piece, index):
                        yield _event(event)
                reply = await anext(replies, None)
        for event in events.last():
            yield _event(event)
        yield "data: [DONE]\n\n"

    async def _done(self, job: Job) -> Reply:
        """The one reply to a job."""
        async for reply in self._replies(job):
            return reply
        return Reply(problem="The worker ended.", ours=True)

    async def _replies(self, job: Job) -> AsyncIterator[Reply]:
        """The replies to a job, from the worker that takes it."""
        event, own_id = asyncio.Event(), str(uuid.uuid4())
        pieces: deque[Any] = deque()
        self.response_buffer[own_id] = ResponseBufferItem(event=event, response_queue=pieces if self._streams else None)
        try:
            with self.places.taken() as place:  # freed where the client or the time limit ends the request, too
                given = replace(job, place=place)
                self.request_queue.put((self.response_queue_id, own_id, time.monotonic(), given))
                if self._streams:
                    async for reply, status in self.data_streamer(pieces, data_available=event, send_status=True):
                        yield reply if status == LitAPIStatus.OK else _lost(reply)
                else:
                    await event.wait()
                    reply, status = self.response_buffer[own_id].response
                    yield reply if status == LitAPIStatus.OK else _lost(reply)
        finally:
            self.response_buffer.pop(own_id, None)

    def _graph_name(self, request: Request) -> str:
        """The folder's name is another name of its main graph."""
        name = str(request.path_params["model"])
        return self._main if name == self._name and name not in self._graphs else name

    def _unknown(self, request: Request) -> Response:
        words = f"There is no model {request.path_params['model']!r}; there are {', '.join(self._graphs)}."
        return JSONResponse({"error": words}, 404)


def _pieces_of(reply: Reply) -> list[Piece]:
    return reply.value if isinstance(reply.value, list) else [reply.value]


async def page(request: Request) -> Response:
    """The page to try the model."""
    text = resources.files("onnxport.serve").joinpath("page.html").read_text(encoding="utf-8")
    # Nothing is loaded from elsewhere, and what a model answers is never run.
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    policy += "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})


async def metrics(request: Request) -> Response:
    """The numbers of `limits.Limits`, for Prometheus."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def ready(request: Request) -> Response:
    """The server answers requests once its workers are ready."""
    return Response()


async def _body(request: Request) -> Any:
    """The JSON object of a request, or the response that refuses it."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        return _refused("The body is not JSON.", "Content-Type: application/json")
    return body if isinstance(body, dict) else _refused("The body is no JSON object.", '{"inputs": "I love it."}')


def _event(document: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def _refused(message: str, hint: str | None, status: int = 400, *, flat: bool = False) -> Response:
    """An error, as OpenAI's clients read it; or as the Open Inference Protocol has it, with the text alone."""
    if flat:
        return JSONResponse({"error": f"{message} {hint or ''}".strip()}, status)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "hint": hint, "type": kind, "code": status}}, status)


def _failed(reply: Reply, *, flat: bool = False) -> Response:
    return _refused(reply.problem or "", reply.hint, 500 if reply.ours else 400, flat=flat)


def _lost(error: Any) -> Reply:
    """The reply where LitServe itself failed: the job waited too long, or the worker broke."""
    status = getattr(error, "status_code", 500)
    late = status == 504
    return Reply(problem="The request waited too long." if late else "The worker failed.", ours=True)
