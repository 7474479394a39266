"""Tiny environments for the tests: a package made on the spot, and this interpreter in the place of another one."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from onnxport.environments.definition import ENVIRONMENTS, Definition
from onnxport.environments.places import folder_of, python_of
from onnxport.environments.state import mark_whole


def make_wheel(folder: Path, name: str, version: str = "1.0", code: str = "VALUE = 1\n", requires: str = "") -> Path:
    """A wheel with one module, in `folder`."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}\n")
    files[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def tiny_definition(
    folder: Path, lines: str = "onnxport-tiny==1.0\n", check: str = "import onnxport_tiny"
) -> Definition:
    """The definition of an environment called `tiny`, its lock in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "tiny.txt"
    lock.write_text(f"# a comment\n\n{lines}", encoding="utf-8")
    return Definition("tiny", "Tests", lock, (3, 11), (3, 99), 10_000_000, 0, check)


def this_python(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    """A whole environment called `name` whose interpreter is this one, with all its packages.

    The number of the last process that ran in it is in the file `pid` in `folder`.
    """
    definition = Definition(name, "Tests", folder / "lock.txt", (3, 11), (3, 99), 0, 0, "")
    folder.mkdir(parents=True, exist_ok=True)
    definition.lock.write_text("", encoding="utf-8")
    monkeypatch.setenv("ONNXPORT_HOME", str(folder / "home"))
    monkeypatch.setitem(ENVIRONMENTS, name, definition)
    python = python_of(folder_of(name))
    python.parent.mkdir(parents=True)
    # Who ends the worker needs to know its number: `exec` keeps it.
    python.write_text(f'#!/bin/sh\necho $$ > "{folder}/pid"\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    mark_whole(definition)
    return definition
