"""Arms of a benchmark: each opens what it measures in a process of its own, and waits while the others run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from onnxport.errors import OnnxPortError, UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.system.library_errors import first_line
from onnxport.system.memory import resident_bytes

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], object]

_WARM_UP = 2  # runs whose time does not count: memory is allocated, kernels are chosen
_LEAST_RUNS = 3
_EXIT_SECONDS = 10


@dataclass(frozen=True)
class Arm:
    """What is measured.

    Attributes:
        name: in tables and charts.
        open: makes the function that is timed, in the arm's process; of a module that can be imported.
        settings: its arguments.
        size_bytes: on the disk; 0 where that is not known.
    """

    name: str
    open: Callable[..., Run]
    settings: Mapping[str, Any]
    size_bytes: int = 0


@dataclass(frozen=True)
class Opened:
    """The start of an arm.

    Attributes:
        seconds: from the start of the process, with its imports, to the end of the first run.
        memory_bytes: resident memory after that run.
    """

    seconds: float
    memory_bytes: int


def open_session(path: str, component: str, threads: int | None, provider: str | None = None) -> Run:
    """The graph of a folder or file in ONNX Runtime."""
    return OnnxSession(path, component, threads, provider=provider).run


class ArmProcess:
    """The process of an arm. `with` ends it.

    Raises:
        UsageError: the arm cannot be opened, or cannot run these inputs.
    """

    def __init__(self, arm: Arm, first: Arrays) -> None:
        context = multiprocessing.get_context("spawn")
        self.arm = arm
        self._connection, other = context.Pipe()
        begun = time.time()
        self._process = context.Process(target=_serve, args=(other, arm, begun), daemon=True)
        self._process.start()
        other.close()
        self._connection.send((first, 0.0, 1))
        seconds, memory = self._answer()
        self.opened = Opened(seconds, memory)

    def run(self, inputs: Arrays, seconds: float, most: int) -> list[float]:
        """Seconds of each run: as many as fit into `seconds`, at least 3, at most `most`."""
        self._connection.send((inputs, seconds, most))
        found: list[float] = self._answer()
        return found

    def _answer(self) -> Any:
        try:
            ok, value = self._connection.recv()
        except (EOFError, OSError):
            raise UsageError(f"The process of {self.arm.name} ended.", hint="Is there enough memory?") from None
        if not ok:
            raise UsageError(f"{self.arm.name} cannot be measured: {value}", hint="Try other --batch and --length.")
        return value

    def __enter__(self) -> ArmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(_EXIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()


def _serve(connection: Connection, arm: Arm, begun: float) -> None:
    """In the process: open, answer with the start, then answer every request with the times of its runs."""
    # What libraries print would mix with the table.
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    try:
        run = arm.open(**arm.settings)
        inputs, *_ = connection.recv()
        run(inputs)
        connection.send((True, (time.time() - begun, resident_bytes())))
        while (request := connection.recv()) is not None:
            connection.send((True, _times(run, *request)))
    except Exception as error:  # the other process tells it
        text = error.text if isinstance(error, OnnxPortError) else f"{type(error).__name__}: {first_line(error)}."
        connection.send((False, text))


def _times(run: Run, inputs: Arrays, seconds: float, most: int) -> list[float]:
    for _ in range(_WARM_UP):
        run(inputs)
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < seconds and len(times) < most):
        start = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - start)
    return times
