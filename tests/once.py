"""What a run of pytest makes once, whichever of its tests and processes ask for it."""

from __future__ import annotations

import fcntl
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

Value = TypeVar("Value")


class Once:
    """Makes folders, and hands the same ones to everybody who names them.

    The processes of pytest-xdist share them. What is handed out is for reading: a test that changes a folder copies it.

        folder, conversion = once("bert", lambda folder: convert(None, save("bert", folder / "m"), folder / "out"))

    Args:
        root: folder of this run that all of its processes have.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, tuple[Path, Any]] = {}

    def __call__(self, name: str, make: Callable[[Path], Value]) -> tuple[Path, Value]:
        """The folder `name`, and what `make` gave for it; `make` is called with the empty folder, the first time.

        Raises:
            AssertionError: `make` failed before, here or in another process; it is not tried again.
        """
        if name not in self._known:
            self._root.mkdir(parents=True, exist_ok=True)
            with (self._root / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._known[name] = self._root / name, self._made(name, make)
        return self._known[name]

    def _made(self, name: str, make: Callable[[Path], Value]) -> Value:
        done, failed = self._root / f"{name}.pickle", self._root / f"{name}.failed"
        if failed.is_file():
            raise AssertionError(f"{name} could not be made:\n{failed.read_text(encoding='utf-8')}")
        if done.is_file():
            found: Value = pickle.loads(done.read_bytes())
            return found
        (self._root / name).mkdir()
        try:
            value = make(self._root / name)
        except Exception:
            failed.write_text(traceback.format_exc(), encoding="utf-8")
            raise
        done.write_bytes(pickle.dumps(value))
        return value


def of_this_run(factory: pytest.TempPathFactory) -> Once:
    """One for all processes of this run of pytest."""
    base = factory.getbasetemp()
    return Once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once")
