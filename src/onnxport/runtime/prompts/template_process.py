"""Renders chat templates in a process of its own, which is kept for the next prompt; see `template_worker.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("template_worker.py")
# Of the processor, for one prompt; usual templates take a millisecond.
CPU_SECONDS = 5
# By the clock, for a processor that is busy with other things, and where processor time has no limit.
_CLOCK_SECONDS = 60.0


class TemplateError(Exception):
    """A template failed, or was ended; the message says why."""


class TemplateProcess:
    """The process, started with the first prompt and again after a template that had to be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def render(self, template: str, variables: Mapping[str, Any], seconds: int = CPU_SECONDS) -> str:
        """The text of a template.

        Args:
            template: in Jinja2's language.
            variables: for it; what JSON does not know becomes text.
            seconds: most time of the processor.

        Raises:
            TemplateError: the template is wrong, raises an error, or takes too much time or memory.
        """
        request = json.dumps({"template": template, "variables": variables, "seconds": seconds}, default=str)
        with self._lock:
            process = self._running()
            answer = _ask(process, request)
            if answer is None:
                self._process = None
                raise TemplateError(f"it did not end within {seconds} s, or took too much memory")
        if "error" in answer:
            raise TemplateError(answer["error"])
        return str(answer["text"])

    def _running(self) -> subprocess.Popen[str]:
        # After a fork the pipes belong to the parent process.
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            self._process, self._owner = _start(), os.getpid()
        return self._process


def _start() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C is for the user's process
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(sys.path) + "\n")
    return process


def _ask(process: subprocess.Popen[str], request: str) -> dict[str, str] | None:
    """The answer to a request; None if there is none, and then the process has ended."""
    lines: list[str] = []

    def converse() -> None:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            lines.append(process.stdout.readline())
        except (OSError, ValueError):
            return

    thread = threading.Thread(target=converse, daemon=True)
    thread.start()
    thread.join(_CLOCK_SECONDS)
    if lines and lines[0].endswith("\n"):
        found: dict[str, str] = json.loads(lines[0])
        return found
    process.kill()
    process.wait()
    return None


PROCESS = TemplateProcess()
