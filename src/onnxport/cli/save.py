"""`onnxport run --save`: images and arrays of the answers as files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.errors import OutputError

_LONG = 64  # shorter lists of numbers stay in the document


class Saver:
    """Writes what an answer holds into a folder: images as .png, arrays as .npy.

    Args:
        folder: where to; it is made if it does not exist.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror}.", hint="--save masks") from error

    def save(self, answer: Any, name: str) -> Any:
        """The answer with the paths of files in the place of images and arrays.

        Args:
            answer: of a pipeline.
            name: the beginning of the files' names.

        Raises:
            OutputError: a file cannot be written.
        """
        if isinstance(answer, Mapping):
            label = _word(answer.get("label"))
            return {key: self.save(value, f"{name}{label}-{key}") for key, value in answer.items()}
        if hasattr(answer, "getbbox"):
            return self._write(self.folder / f"{name}.png", answer)
        if (hasattr(answer, "dtype") and answer.ndim > 0) or _is_numbers(answer):
            return self._write(self.folder / f"{name}.npy", np.asarray(answer))
        if isinstance(answer, (list, tuple)):
            return [self.save(item, f"{name}-{number}") for number, item in enumerate(answer)]
        return answer

    def _write(self, file: Path, value: Any) -> str:
        try:
            if isinstance(value, np.ndarray):
                np.save(file, value)
            else:
                value.save(file)
        except OSError as error:
            raise OutputError(f"{file} cannot be written: {error.strerror}.", hint="Give another folder.") from error
        return str(file)


def _word(label: Any) -> str:
    """A label as part of a file name."""
    words = re.sub(r"[^\w]+", "_", str(label)).strip("_") if label is not None else ""
    return f"-{words}" if words else ""


def _is_numbers(value: Any) -> bool:
    """Whether it is a nested or a long list of numbers."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    large = len(value) > _LONG or isinstance(value[0], (list, tuple))
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return large and isinstance(value, float)
