"""Making an environment: venv, pip with the pinned packages, a check. What was interrupted goes on where it stopped."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onnxport.environments.bridge import bridge
from onnxport.environments.definition import Definition
from onnxport.environments.locks import changing
from onnxport.environments.places import HOME_VARIABLE, disk_bytes, folder_of, python_of
from onnxport.environments.processes import clean_variables, printed, read_back, run
from onnxport.environments.state import (
    State,
    Status,
    mark_begun,
    mark_whole,
    python_version,
    state_of,
    status_of,
    unmark,
    was_begun,
)
from onnxport.errors import ManagedEnvironmentError, OutputError, UsageError, nothing_written
from onnxport.progress import Reporter, Silent
from onnxport.publishing.destination import check_free_space, check_parent, write_errors
from onnxport.system.output_capture import capture_thread

_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")
_MOST_MESSAGE = 500


def create(definition: Definition, reporter: Reporter | None = None) -> Status:
    """Make the environment, or complete it, or make it anew if its pins are older; a whole one is left as it is.

    Args:
        definition: which one.
        reporter: told about every step; silent by default.

    Raises:
        ManagedEnvironmentError: this Python does not do, another process is at it, or venv, pip or the check failed.
        OutputError: its folder cannot be written, or the disk is too full.
    """
    reporter = reporter or Silent()
    folder = folder_of(definition.name)
    if state_of(definition) is State.WHOLE:
        return status_of(definition)
    with nothing_written():
        require_python(definition, sys.version_info[:2])
        require_own(folder)
        check_parent(folder)
    with write_errors(folder), changing(definition.name) as held:
        if state_of(definition) is not State.WHOLE:  # another process may have made it meanwhile
            with nothing_written():
                _require_space(definition, folder)
            with capture_thread(), printed() as log:
                _make(definition, folder, reporter, _Commands(log, held))
    return status_of(definition)


def require_python(definition: Definition, version: tuple[int, int]) -> None:
    """The packages have wheels for some versions of Python only.

    Raises:
        ManagedEnvironmentError: not for this one.
    """
    if not definition.takes_python(version):
        (major, first), (_, below) = definition.python_from, definition.python_below
        raise ManagedEnvironmentError(
            f"The packages of {definition.name} exist for Python {major}.{first} to {major}.{below - 1}, and this is "
            f"Python {version[0]}.{version[1]}.",
            hint=f"Install onnxport with one of these, and run there: onnxport env create {definition.name}",
        )


def require_own(folder: Path) -> None:
    """What is behind a link is not ours to fill or delete.

    Raises:
        OutputError: `folder` is a link.
    """
    if folder.is_symlink():
        raise OutputError(
            f"{folder} is a symbolic link.",
            hint=f"Delete it, and set {HOME_VARIABLE} to have environments on another disk.",
        )


def _require_space(definition: Definition, folder: Path) -> None:
    missing = max(definition.disk_bytes - disk_bytes(folder), 0) + definition.download_bytes
    try:
        check_free_space(folder, missing)
    except OutputError as error:
        raise OutputError(
            error.message, hint=f"Free some space, or set {HOME_VARIABLE} to a folder on another disk."
        ) from error


def _make(definition: Definition, folder: Path, reporter: Reporter, commands: _Commands) -> None:
    python = python_of(folder)
    with reporter.step("Create environment") as step:
        unmark(folder)
        goes_on = was_begun(definition) and commands.run(python, *_PIP, "--version")
        if not goes_on:
            if folder.is_dir():
                shutil.rmtree(folder)
            # pip in a step of its own: venv keeps to itself why it could not put it there.
            made = commands.run(Path(sys.executable), "-m", "venv", "--without-pip", folder)
            if not made or not commands.run(python, "-m", "ensurepip", "--default-pip"):
                raise _failed(f"Python could not create a virtual environment at {folder}", commands, definition)
            mark_begun(definition)
        step.done(f"Python {python_version(folder)}" + (", goes on where it stopped" if goes_on else ""))
    with reporter.step("Install") as step, commands.temporary_files(folder / "tmp"):
        forget_unfinished(folder)
        # Only wheels: building packages would run their code, and need compilers. No dependencies: the lock has them.
        options = ("--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--requirement", definition.lock)
        # Wheels are kept while they are unpacked.
        total = definition.disk_bytes + definition.download_bytes
        if not commands.run(
            python, *_PIP, "install", *options, meanwhile=lambda: step.advance(disk_bytes(folder), total)
        ):
            raise _failed(f"pip could not install the packages of {definition.name}", commands, definition)
        step.done(f"{len(installed(folder))} packages, {disk_bytes(folder) / 1e6:.0f} MB")
    with reporter.step("Check") as step, bridge() as path:
        if not commands.run(python, *_PIP, "check"):
            raise _failed(f"The packages of {definition.name} do not fit together", commands, definition)
        if not commands.run(python, "-c", definition.check, bridge=path):
            raise _failed(f"The packages of {definition.name} are installed, but cannot be used", commands, definition)
        step.done("all packages fit together and can be imported")
    mark_whole(definition)


class _Commands:
    """Runs one process after another; all that they print goes to `log`, and they inherit the descriptors `held`."""

    def __init__(self, log: BinaryIO, held: tuple[int, ...]) -> None:
        self._log, self._held = log, held
        self._start = 0
        self._more: dict[str, str] = {}

    @contextmanager
    def temporary_files(self, folder: Path) -> Iterator[None]:
        """Processes put them there: a system's own folder for them may be in memory, and keeps what a crash leaves."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._more = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
        try:
            yield
        finally:
            self._more = {}
            shutil.rmtree(folder, ignore_errors=True)

    def run(
        self, program: Path, *words: str | Path, bridge: Path | None = None, meanwhile: Callable[[], None] | None = None
    ) -> bool:
        """Whether the process succeeded. `meanwhile` is called now and then."""
        self._start = self._log.seek(0, os.SEEK_END)
        try:
            variables = clean_variables(bridge) | self._more
            return run((program, *words), self._log, variables, self._held, meanwhile) == 0
        except FileNotFoundError:
            return False

    def said(self) -> str:
        """What the last process printed."""
        return read_back(self._log, self._start)


def _failed(what: str, commands: _Commands, definition: Definition) -> ManagedEnvironmentError:
    return ManagedEnvironmentError(
        f"{what}: {last_words(commands.said())}",
        hint=f"What is there is kept: onnxport env create {definition.name} goes on from it; --verbose shows more.",
    )


def last_words(text: str) -> str:
    """What a failed process said in the end: pip's errors if there are any, else the last lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    words = " ".join(errors[-3:] or lines[-2:]) or "it said nothing."
    return words if len(words) <= _MOST_MESSAGE else "... " + words[-_MOST_MESSAGE:]


def remove(definition: Definition, reporter: Reporter | None = None) -> Status:
    """Delete the environment. Interrupted, it leaves an incomplete one, which can be removed or completed.

    Returns:
        What was there.

    Raises:
        UsageError: there is none.
        ManagedEnvironmentError: a process uses it.
        OutputError: its folder is a link, or cannot be written.
    """
    reporter = reporter or Silent()
    folder = folder_of(definition.name)
    if not os.path.lexists(folder):
        raise UsageError(
            f"There is no environment {definition.name} at {folder}. Nothing was removed.", hint="onnxport env list"
        )
    require_own(folder)
    with write_errors(folder), changing(definition.name):
        status = status_of(definition)
        with reporter.step("Remove environment") as step:
            unmark(folder)
            shutil.rmtree(folder)
            step.done(f"{status.size_bytes / 1e6:.0f} MB")
    return status


def site_packages(folder: Path) -> list[Path]:
    """The folders of the environment `folder` that hold packages."""
    return [
        path for path in (*folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages") if path.is_dir()
    ]


def installed(folder: Path) -> list[Path]:
    """The metadata folders of all packages in the environment `folder`."""
    return sorted(path for place in site_packages(folder) for path in place.glob("*.dist-info"))


def forget_unfinished(folder: Path) -> list[str]:
    """Delete the metadata of packages that are not whole, so that pip installs them again.

    Returns:
        The names of these metadata folders.
    """
    unfinished = [path for path in installed(folder) if not _is_whole(path)]
    for path in unfinished:
        shutil.rmtree(path)
    return [path.name for path in unfinished]


def _is_whole(metadata: Path) -> bool:
    try:
        with (metadata / "RECORD").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        if f"{metadata.name}/INSTALLER" not in {row[0].replace("\\", "/") for row in rows}:
            return False
        # Files without a size are those that are made from others.
        return all((metadata.parent / row[0]).stat().st_size == int(row[2]) for row in rows if len(row) > 2 and row[2])
    except (OSError, ValueError, csv.Error):
        return False
