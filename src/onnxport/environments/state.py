"""What is there of an environment: nothing, a part, the whole, or the whole of older pins.

Two small files in its folder tell. `begun` is written first and `whole` last, both hold the hash of the pins.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from onnxport.environments.definition import ENVIRONMENTS, Definition, find_definition
from onnxport.environments.places import disk_bytes, folder_of, python_of
from onnxport.errors import MissingDependencyError

_BEGUN, _WHOLE = "onnxport-begun.json", "onnxport-whole.json"


class State(StrEnum):
    """Of an environment."""

    NOT_CREATED = "not created"
    INCOMPLETE = "incomplete"  # creating it was interrupted, or its Python is gone
    OUTDATED = "outdated"  # made for an onnxport with other pins
    WHOLE = "whole"


@dataclass(frozen=True)
class Status:
    """An environment, and what is there of it.

    Attributes:
        python: version of its Python, None where there is none.
        size_bytes: what it takes on disk.
        path: its folder, which may not exist.
    """

    name: str
    purpose: str
    state: State
    python: str | None
    size_bytes: int
    path: Path


def state_of(definition: Definition) -> State:
    """Looks at the disk; starts no process."""
    folder = folder_of(definition.name)
    if not os.path.lexists(folder):
        return State.NOT_CREATED
    pins = _pins(folder / _WHOLE)
    if pins is None or not os.access(python_of(folder), os.X_OK):
        return State.INCOMPLETE
    return State.WHOLE if pins == definition.pins() else State.OUTDATED


def status_of(definition: Definition) -> Status:
    """What there is of one environment. Counts its files, which takes a moment."""
    folder = folder_of(definition.name)
    return Status(
        definition.name, definition.purpose, state_of(definition), python_version(folder), disk_bytes(folder), folder
    )


def statuses() -> list[Status]:
    """What there is of every environment that onnxport manages."""
    return [status_of(definition) for definition in ENVIRONMENTS.values()]


def require(name: str) -> Path:
    """The interpreter of the environment `name`.

    Raises:
        UsageError: onnxport manages no such environment.
        MissingDependencyError: it is not there, or not whole; the hint is the command that makes it.
    """
    definition = find_definition(name)
    state = state_of(definition)
    if state is State.WHOLE:
        return python_of(folder_of(name))
    what = {
        State.NOT_CREATED: "is not there yet",
        State.INCOMPLETE: "is incomplete",
        State.OUTDATED: "was made for another version of onnxport",
    }[state]
    raise MissingDependencyError(
        f"{definition.purpose} need the environment {name}, which {what}.",
        hint=f"onnxport env create {name}",
    )


def python_version(folder: Path) -> str | None:
    """The version of the environment's Python, as venv wrote it down."""
    with suppress(OSError, UnicodeDecodeError):
        for line in (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "version":
                return value.strip()
    return None


def mark_begun(definition: Definition) -> None:
    """From here on the folder is made for these pins."""
    _write(folder_of(definition.name) / _BEGUN, definition)


def mark_whole(definition: Definition) -> None:
    """Everything is there and works."""
    _write(folder_of(definition.name) / _WHOLE, definition)


def unmark(folder: Path) -> None:
    """Not whole any more: before anything in the folder is changed."""
    (folder / _WHOLE).unlink(missing_ok=True)


def was_begun(definition: Definition) -> bool:
    """Whether what is in the folder was begun for these pins."""
    return _pins(folder_of(definition.name) / _BEGUN) == definition.pins()


def _write(file: Path, definition: Definition) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps({"environment": definition.name, "pins": definition.pins()}) + "\n", encoding="utf-8")
    new.replace(file)


def _pins(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["pins"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
