"""Calling a function of onnxport in a managed environment: the caller's side of the pipes.

stdin    the request, one line of JSON. It stays open: its end tells the worker to stop, whatever became of us.
stdout   messages, one line of JSON each: steps, notes, and at last a result or an error
stderr   all that anybody prints there, on either stream
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from onnxport.environments.bridge import bridge
from onnxport.environments.definition import find_definition
from onnxport.environments.locks import using
from onnxport.environments.processes import clean_variables, kill_group, printed, read_back
from onnxport.environments.state import require
from onnxport.environments.wire import error_of, plain_arguments, result_of
from onnxport.errors import ManagedEnvironmentError
from onnxport.progress import Reporter, Step
from onnxport.system.memory import current_limit
from onnxport.system.output_capture import capture_thread

_WORKER = "onnxport._worker"
# For a worker that was told to stop, or has given its result: staging folders are removed in it.
GRACE_SECONDS = 30.0


def call_in(environment_name: str, function: str, arguments: dict[str, Any], reporter: Reporter) -> Any:
    """Call a public function of onnxport in a managed environment, as if it were called here.

    Args:
        environment_name: which environment.
        function: "convert" or "verify".
        arguments: its keyword arguments, without `reporter`; all that JSON takes, and paths.
        reporter: told about every step.

    Returns:
        What the function returned.

    Raises:
        UsageError: no such environment or function, or an argument that is a live object.
        MissingDependencyError: the environment is not there, or not whole.
        ManagedEnvironmentError: the worker ended without a result, or failed as onnxport did not mean to.
        OnnxPortError: what the function raised.
        KeyboardInterrupt: after the worker has ended.
    """
    find_definition(environment_name)
    sent = plain_arguments(environment_name, function, arguments)
    request = json.dumps({"function": function, "arguments": sent, "memory_limit": current_limit()}).encode() + b"\n"
    with using(environment_name) as held:
        python = require(environment_name)
        with capture_thread(), printed() as log, bridge() as path:
            worker = _start(python, path, log, held)
            last = _converse(worker, request, reporter, log)
            said = read_back(log)
    if last is None and worker.returncode == -signal.SIGINT:
        raise KeyboardInterrupt  # before or after it could say so
    if last is None:
        raise _ended(environment_name, worker.returncode, said)
    if last["event"] == "interrupted":
        raise KeyboardInterrupt
    if last["event"] == "error":
        raise error_of(last)
    if last["event"] == "unexpected":
        raise ManagedEnvironmentError(
            f"In the environment {environment_name}: {last['class']}: {last['message']}.",
            hint="This is a bug in onnxport; the command line shows more of it with --verbose.",
        )
    return result_of(last)


def _start(python: Path, path: Path, log: BinaryIO, held: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(python), "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=clean_variables(path),
        pass_fds=held,
        # A session of its own: Ctrl-C reaches it through us, once, so that its cleaning up is not interrupted.
        start_new_session=True,
    )


def _converse(
    worker: subprocess.Popen[bytes], request: bytes, reporter: Reporter, log: BinaryIO
) -> dict[str, Any] | None:
    """Send the request, show what comes, and see the worker end.

    Returns:
        The last message; None where it ended without one.
    """
    assert worker.stdin is not None and worker.stdout is not None
    last = None
    try:
        with suppress(BrokenPipeError):  # it has ended already, and why is told by its exit code
            worker.stdin.write(request)
            worker.stdin.flush()
        with Relay(reporter) as relay:
            for line in worker.stdout:
                message = _message(line)
                if message is None:
                    log.write(line)
                elif not relay.handle(message):
                    last = message
                    break
        if last is not None:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(GRACE_SECONDS)
    finally:
        _end(worker)
    return last


def _end(worker: subprocess.Popen[bytes]) -> None:
    """See the worker end: `communicate` closes its stdin, which is how it is told to stop."""
    try:
        if worker.returncode is None:
            worker.communicate(timeout=GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, BrokenPipeError):
        pass  # does not listen, or the user pressed Ctrl-C again
    finally:
        if worker.returncode is None:
            kill_group(worker)
        for pipe in (worker.stdin, worker.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _message(line: bytes) -> dict[str, Any] | None:
    """The message in a line; None for what a library printed before the worker had its streams in order."""
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and "event" in found:
            return found
    return None


def _ended(environment: str, code: int, said: str) -> ManagedEnvironmentError:
    """What to say of a worker that ended without a result."""
    how, hint = f"ended with exit code {code}", f"onnxport env remove {environment}, and create it again."
    if code < 0:
        try:
            how = f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was ended by signal {-code}"
        hint = "With --verbose the command line shows all that it printed."
        if -code == getattr(signal, "SIGKILL", 0):
            how += ", as systems do when memory runs out,"
            hint = "Convert on a machine with more memory."
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = f" The last line it printed: {lines[-1][:300]}" if lines else " It printed nothing."
    return ManagedEnvironmentError(
        f"The process in the environment {environment} {how} before it gave a result.{words}",
        hint=hint,
    )


class _NotDone(Exception):
    """Ends a step that failed in the worker; what it failed with follows as a message of its own."""


class Relay:
    """Opens and closes steps as messages say. Leaving the block closes what is still open, as failed."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._open: list[tuple[AbstractContextManager[Step], Step]] = []

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close(ok=False)

    def handle(self, message: Mapping[str, Any]) -> bool:
        """Show a message; False if it is none about steps and notes."""
        event = message["event"]
        if event == "begin":
            manager = self._reporter.step(message["title"])
            self._open.append((manager, manager.__enter__()))
        elif event == "advance" and self._open:
            self._open[-1][1].advance(message["done"], message["total"])
        elif event == "end" and self._open:
            if message["summary"] is not None:
                self._open[-1][1].done(message["summary"])
            self._close(ok=message["ok"])
        elif event == "note":
            self._reporter.note(message["text"])
        else:
            return event in ("advance", "end")
        return True

    def _close(self, *, ok: bool) -> None:
        manager, _ = self._open.pop()
        if ok:
            manager.__exit__(None, None, None)
            return
        error = _NotDone()
        try:
            manager.__exit__(_NotDone, error, None)
        except _NotDone:
            return
