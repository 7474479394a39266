"""Every error that a user can meet.

An error has three parts: what was wrong, with the offending value (`message`); what became of the
output (`outcome`); and the command to type or the thing to change next (`hint`). `exit_code` is what
the command line returns: 1 = the numbers differ, 2 = could not convert, or bad usage.

    >>> try:
    ...     with nothing_written():
    ...         raise UsageError("Opset 7 is too old.", hint="Use --opset 18.")
    ... except UsageError as error:
    ...     print(error)
    Opset 7 is too old. Nothing was written.
    Use --opset 18.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxport.specs import Verification


class OnnxPortError(Exception):
    """Base of all errors raised by onnxport on purpose.

    Args:
        message: what was wrong, with the offending value.
        hint: the next thing to type or to change, or None.

    Attributes:
        outcome: what became of the output, a sentence; empty where nothing was to be written.
            `nothing_written` sets it, so no message says it itself.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.outcome = ""

    @property
    def text(self) -> str:
        """What was wrong and what became of the output, without the hint."""
        return f"{self.message} {self.outcome}" if self.outcome else self.message

    def __str__(self) -> str:
        return f"{self.text}\n{self.hint}" if self.hint else self.text


class UsageError(OnnxPortError):
    """An argument that cannot be used: an opset out of range, an unknown flag value."""


class SizeError(UsageError):
    """An input of a size that the graph does not take; the manifest's axes and restrictions say which it does."""


class TaskError(UsageError):
    """An unknown task, or one that the model has no head for."""


class CheckpointError(OnnxPortError):
    """The checkpoint is missing, broken or incomplete."""


class UntrustedCheckpointError(CheckpointError):
    """Loading would execute code from the checkpoint (pickle, remote code) without permission."""


class MissingDependencyError(OnnxPortError):
    """A framework or library is not installed; the hint is the install command."""


class UnknownPreprocessingError(MissingDependencyError):
    """The inputs of a folder are prepared by a class of transformers that the run time does not have.

    Args:
        what: names the class, as the subject of a sentence.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} runs with transformers only, which is not installed.",
            hint='pip install "onnxport[pytorch]"; onnxport.runtime.session.OnnxSession runs the graph without it.',
        )


class ManagedEnvironmentError(OnnxPortError):
    """A managed environment could not be made, is in use, or a process in it ended without a result."""


class OutputError(OnnxPortError):
    """The destination cannot be written: not empty, not writable, no space left."""


class ExportError(OnnxPortError):
    """The graph could not be captured, or came out with an axis fixed that must be dynamic."""


class MemoryLimitError(OnnxPortError):
    """The conversion would need more memory than it may take."""


class FolderError(OnnxPortError):
    """A folder that is not a whole onnxport folder: manifest missing or broken, hash differs."""


class VerificationError(OnnxPortError):
    """The converted graph ran, but its numbers differ from the source model's.

    Attributes:
        verification: the comparison, case by case.
        manifest: the `Manifest` that would have been published, for a report; None where it is not known.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, verification: Verification | None = None) -> None:
        super().__init__(message, hint=hint)
        self.verification = verification
        self.manifest: object | None = None


@contextmanager
def nothing_written(outcome: str = "Nothing was written.") -> Iterator[None]:
    """Within it, an error tells what became of the output. Around every function that writes.

    Args:
        outcome: the sentence. Of nested uses the innermost counts.
    """
    try:
        yield
    except OnnxPortError as error:
        error.outcome = error.outcome or outcome
        raise


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """A sentence naming the closest known values, or all of them when none is close."""
    names = sorted(set(known))
    close = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "Known: " + ", ".join(names) + "."
