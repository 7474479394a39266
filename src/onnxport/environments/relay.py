"""Steps and notes of a worker, shown by the caller's own reporter."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from onnxport.progress import Reporter, Step


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
