"""What a request asks a worker to do, and what comes back. Plain data: it crosses processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["call", "embed", "tensors", "write"]


@dataclass(frozen=True)
class ServeSettings:
    """What is served, and how.

    Attributes:
        folder: a folder that onnxport wrote.
        component: name of its graph.
        task: None for that of the folder.
        provider, threads: of each worker's sessions.
        workers: processes that hold the model.
        max_batch: most requests that run together.
        batch_delay: seconds that a request waits for others.
        queue: most requests that are worked on or wait; more are answered with 429.
        max_body: bytes of a request.
        timeout: seconds until a request is answered with 504.
        host, port: where it listens.
    """

    folder: Path
    component: str = "model"
    task: str | None = None
    provider: str | None = None
    threads: int | None = None
    workers: int = 1
    max_batch: int = 16
    batch_delay: float = 0.002
    queue: int = 256
    max_body: int = 16 * 2**20
    timeout: float = 60.0
    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: "call" the pipeline; "embed" texts; run a graph on "tensors"; "write" a text piece by piece.
        inputs: of "call" what the pipeline takes; of "embed" a list of texts; of "tensors" arrays by name; of "write" a
            prompt or a list of messages.
        settings: arguments of the call; of "tensors" `graph`, the name of the graph, and `outputs`, names.
        place: of the request in `places.Places`; None for work that nobody stops.
    """

    kind: Kind
    inputs: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    place: tuple[int, int] | None = None


@dataclass(frozen=True)
class Reply:
    """A result, or why there is none.

    Attributes:
        value: the result; of "write" a `Piece`.
        problem: what was wrong with the request, in words.
        hint: what to change.
        ours: the request was right, and the server failed.
    """

    value: Any = None
    problem: str | None = None
    hint: str | None = None
    ours: bool = False


@dataclass(frozen=True)
class Piece:
    """A part of a text that is being written.

    Attributes:
        text: what is new.
        prompt_tokens, new_tokens: of the whole text so far.
        finish: why it ended, in the last piece: "stop" or "length".
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    finish: str | None = None
