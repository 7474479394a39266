"""Processes in an environment: what they see of ours, what they print, and that they end when we do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Of what begins with PYTHON; the rest names folders of the caller's Python, or changes what Python does.
_KEPT = {"PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"}
# Where pip installs is not a matter of the caller's settings. Where it gets packages from is.
_DROPPED = {"VIRTUAL_ENV", "__PYVENV_LAUNCHER__"} | {
    f"PIP_{name}" for name in ("TARGET", "PREFIX", "ROOT", "USER", "PYTHON", "REQUIREMENT", "DRY_RUN")
}
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_TAIL_BYTES = 2**20


def clean_variables(bridge: Path | None = None) -> dict[str, str]:
    """The environment variables for a Python that shall see nothing of the caller's packages.

    Args:
        bridge: a folder to import from besides the environment's own.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED and (not name.startswith("PYTHON") or name in _KEPT)
    }
    kept |= {
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",  # not the working directory
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",  # the last line before a crash shall not be lost
    }
    return kept | ({"PYTHONPATH": str(bridge)} if bridge is not None else {})


@contextmanager
def printed() -> Iterator[BinaryIO]:
    """A file for what processes print. In the end it goes where output is captured, so that --verbose shows it."""
    with tempfile.TemporaryFile() as log:
        try:
            yield log
        finally:
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(read_back(log))


def read_back(log: BinaryIO, start: int = 0) -> str:
    """What is in the file that processes print into, from byte `start` on; of a long text the end."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(size - _TAIL_BYTES, start))
    return log.read().decode("utf-8", errors="replace")


def run(
    command: Sequence[str | Path], log: BinaryIO, variables: dict[str, str], keep: tuple[int, ...] = (),
    meanwhile: Callable[[], None] | None = None,
) -> int:  # fmt: skip
    """Run a process to its end; stopped together with its children if we are.

    Args:
        command: program and arguments.
        log: gets all that it prints.
        variables: its environment variables.
        keep: descriptors that it inherits.
        meanwhile: called every second while it runs.

    Returns:
        Its exit code.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=variables,
        pass_fds=keep,
        start_new_session=True,  # a group of its own, which Ctrl-C reaches through us alone
    )
    try:
        while True:
            try:
                return process.wait(None if meanwhile is None else _LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                assert meanwhile is not None
                meanwhile()
    except BaseException:
        _stop(process)
        raise


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that has a session of its own, and all that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask with SIGINT, so that pip removes its temporary files, and kill what does not listen."""
    try:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass  # asked twice, or does not listen
    finally:
        kill_group(process)
