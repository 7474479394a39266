"""The streams of a command: data on stdout, messages on stderr; output of libraries is captured."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import typer

from onnxport.cli.console import Console, rendered, rich_console
from onnxport.cli.documents import to_text
from onnxport.cli.sizes import parse_size
from onnxport.errors import OnnxPortError, VerificationError
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    from rich.console import RenderableType


_PANIC = "PanicException"  # of pyo3, which no module exports


class ClosedOutput(Exception):
    """Nobody reads stdout any more (`onnxport tasks | head`)."""


class Shell:
    """The streams of one run, taken before `sys.stdout` and `sys.stderr` are redirected.

    Attributes:
        json, quiet, verbose: the options of that name.
        interrupted: returns the message for a command that the user stops.
    """

    def __init__(self, *, check: Callable[[], None], json: bool = False, verbose: bool = False) -> None:
        self.stdout = _usable(sys.stdout)
        self.stderr = _usable(sys.stderr)
        self.json, self.quiet, self.verbose = json, False, verbose
        self.memory_limit: int | None = None
        self.interrupted: Callable[[], str] = lambda: "interrupted"
        self._check = check
        self._captured = io.StringIO()

    @cached_property
    def console(self) -> Console:
        """The reporter, made on first use: an error is printed without rich."""
        return Console(self.stderr, silent=self.quiet, check=self._check)

    @contextmanager
    def working(self) -> Iterator[Console]:
        """Capture what libraries print while the block runs, and keep the memory limit where one is set."""
        from onnxport.system.memory import memory_limit
        from onnxport.system.output_capture import capture_process

        limit = nullcontext() if self.memory_limit is None else memory_limit(self.memory_limit)
        with limit, capture_process() as captured:
            self._captured = captured
            yield self.console

    def write(self, text: str) -> None:
        """Write lines of data on stdout.

        Raises:
            ClosedOutput: nobody reads it.
        """
        try:
            self.stdout.write(text + "\n")
            self.stdout.flush()
        except BrokenPipeError:
            # Python flushes stdout again at exit; that must not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stdout.fileno())
            raise ClosedOutput from None

    def write_json(self, document: Any) -> None:
        """Write a JSON document on stdout."""
        self.write(to_text(document))

    def write_table(self, *tables: RenderableType) -> None:
        """Write tables on stdout."""
        self.write(rendered(rich_console(self.stdout), *tables))

    def report(self, error: BaseException, exit_code: int, *, expected: bool) -> None:
        """Print an error on stderr, and with --json also as a document on stdout.

        Args:
            error: what was raised.
            exit_code: what the process will return.
            expected: False for an error that onnxport did not raise on purpose.
        """
        message, hint = str(error), None
        if isinstance(error, OnnxPortError):
            message, hint = error.text, error.hint
        elif not expected:
            message = f"{type(error).__name__}: {first_line(error, 'no message')}"
            hint = "This is a bug in onnxport" + ("." if self.verbose else "; run again with --verbose.")
            if type(error).__name__ == _PANIC:
                hint = "A library written in Rust failed on the input. Copy or download the files again."
        if isinstance(error, VerificationError) and error.verification is not None:
            from onnxport.cli.tables import verification_table
            from onnxport.verification.localisation.describe import difference_lines

            self.console.print(verification_table("model", error.verification))
            if error.verification.difference is not None:
                self.tell("\n".join(difference_lines(error.verification.difference)))
        self.fail(type(error).__name__, message, hint, exit_code)
        self.show_captured()
        if self.verbose:
            self.tell("".join(traceback.format_exception(error)).rstrip())

    def fail(self, kind: str, message: str, hint: str | None, exit_code: int) -> None:
        """Print an error, and its document with --json."""
        self.tell(f"error: {message}" + (f"\nhint: {hint}" if hint else ""))
        if self.json:
            self.write_json({"error": {"type": kind, "message": message, "hint": hint, "exit_code": exit_code}})

    def show_captured(self) -> None:
        """With --verbose: print what libraries printed."""
        text = self._captured.getvalue().strip()
        if self.verbose and text:
            self.tell(f"--- printed by libraries ---\n{text}\n----------------------------")

    def tell(self, text: str) -> None:
        """Print a message on stderr, even with --quiet."""
        try:
            self.stderr.write(text + "\n")
            self.stderr.flush()
        except (OSError, ValueError):
            return  # nobody reads the messages any more


def shell_of(
    context: typer.Context,
    *,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    memory_limit: str | None = None,
) -> Shell:
    """The shell of a command, with the values of its options.

    Raises:
        UsageError: the memory limit is not a size.
    """
    shell = context.find_object(Shell)
    assert shell is not None
    shell.json, shell.quiet, shell.verbose = json, quiet, verbose
    shell.memory_limit = None if memory_limit is None else parse_size(memory_limit, "--memory-limit")
    return shell


def _usable(stream: TextIO | None) -> TextIO:
    """`stream`, which escapes characters that its encoding lacks; a sink if it is closed (`>&-`)."""
    if stream is None:
        return io.StringIO()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
