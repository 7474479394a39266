"""The process in a managed environment: one call of a function of onnxport, told about through pipes.

    python -m onnxport._worker

The other side is `call.py`. The worker takes its stdout for messages and its stdin for the request, for itself alone:
what libraries print to stdout goes to stderr, and what they read from stdin is empty.
"""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxport
from onnxport.environments.wire import FUNCTIONS, error_message, result_message
from onnxport.errors import OnnxPortError
from onnxport.progress import Step
from onnxport.system.library_errors import first_line
from onnxport.system.memory import memory_limit
from onnxport.system.output_capture import capture_process
from onnxport.system.time_limit import own_process

_ADVANCE_SECONDS = 0.1


class Messages:
    """Lines of JSON to the caller. Threads may send, too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.RLock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message.

        Raises:
            KeyboardInterrupt: nobody reads any more, so there is nobody to work for.
        """
        # The newline in front ends a message that an interrupt cut off.
        rest = b"\n" + json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except BrokenPipeError:
                raise KeyboardInterrupt from None


class Stop:
    """Interrupts the main thread when the request pipe ends: the caller wants that, or is no more.

    It is remembered, because libraries swallow KeyboardInterrupt or turn it into an error of theirs.
    """

    def __init__(self, descriptor: int) -> None:
        self.asked = False
        self._descriptor = descriptor

    def watch(self) -> None:
        """Start to watch, in a thread of its own."""
        threading.Thread(target=self._wait, daemon=True).start()

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was asked for."""
        if self.asked:
            raise KeyboardInterrupt

    def _wait(self) -> None:
        while os.read(self._descriptor, 4096):
            pass
        self.asked = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)


class Reporting:
    """A `Reporter` (onnxport.progress) whose steps and notes are messages."""

    def __init__(self, messages: Messages, stop: Stop) -> None:
        self._messages = messages
        self._stop = stop

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Tell that a step begins, and how it ended."""
        self._stop.check()
        self._messages.send({"event": "begin", "title": title})
        step = _Step(self._messages)
        ok = False
        try:
            yield step
            ok = True
        finally:
            self._messages.send({"event": "end", "summary": step.summary, "ok": ok})
        self._stop.check()

    def note(self, text: str) -> None:
        """Hand a note on."""
        self._messages.send({"event": "note", "text": text})


class _Step:
    def __init__(self, messages: Messages) -> None:
        self.summary: str | None = None
        self._messages = messages
        self._last = 0.0

    def done(self, summary: str) -> None:
        self.summary = summary

    def advance(self, bytes_done: int, total: int) -> None:
        now = time.monotonic()
        if bytes_done >= total or now - self._last >= _ADVANCE_SECONDS:
            self._last = now
            self._messages.send({"event": "advance", "done": bytes_done, "total": total})


class _Through(io.StringIO):
    """What `quiet` collects, written to stderr at once: after a crash the last words are wanted."""

    def write(self, text: str) -> int:
        if sys.__stderr__ is not None:
            sys.__stderr__.write(text)
            sys.__stderr__.flush()
        return len(text)


def main() -> int:
    """Serve one request; the exit code is 0 if an answer was sent, whatever it says."""
    requests, messages = _take_streams()
    stop = Stop(requests.fileno())
    # A shell may have handed on an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    request = json.loads(requests.readline())
    own_process()
    stop.watch()
    messages.send(_answer(request, messages, stop))
    return 0


def _take_streams() -> tuple[io.FileIO, Messages]:
    """The pipes, which nobody else can reach afterwards: `dup` makes descriptors that are not inherited."""
    requests, messages = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return io.FileIO(requests, "rb"), Messages(messages)


def _answer(request: dict[str, Any], messages: Messages, stop: Stop) -> dict[str, Any]:
    try:
        if request["function"] not in FUNCTIONS:
            raise ValueError(f"{request['function']} is not to be called from outside")
        function = getattr(onnxport, request["function"])
        with capture_process(_Through()):
            with memory_limit(request["memory_limit"]):
                return result_message(function(**request["arguments"], reporter=Reporting(messages, stop)))
    except KeyboardInterrupt:
        return {"event": "interrupted"}
    except OnnxPortError as error:
        return {"event": "interrupted"} if stop.asked else error_message(error)
    except BaseException as error:  # the last line of defence says what it was
        traceback.print_exc()
        unexpected = {"event": "unexpected", "class": type(error).__name__, "message": first_line(error, "")}
        return {"event": "interrupted"} if stop.asked else unexpected


if __name__ == "__main__":
    code = main()
    # As in `onnxport.__main__`: no walk over a framework's objects that the system takes back at once.
    gc.freeze()
    sys.exit(code)
