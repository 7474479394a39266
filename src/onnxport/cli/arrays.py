"""`onnxport run` of plain modules, whose inputs are numpy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.runtime.session import OnnxSession

_FIRST = 6


def run_arrays(folder: Folder, component: str, files: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """The outputs of a component for each file.

    Args:
        files: `.npz` with an array for each input, or `.npy` for a graph with one input.

    Raises:
        UsageError: a file without the inputs.
        FolderError: no such component, or its graph is damaged.
    """
    session = OnnxSession(folder, component)
    return [session.run(_read(file, [spec.name for spec in session.inputs])) for file in files]


def lines(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
    """A line for each output: its type, shape and first numbers."""
    return [
        f"{name}: {array.dtype} {list(array.shape)} "
        + " ".join(f"{number:.6g}" for number in array.reshape(-1)[:_FIRST])
        + (" ..." if array.size > _FIRST else "")
        for name, array in outputs.items()
    ]


def _read(name: str, inputs: list[str]) -> dict[str, NDArray[Any]]:
    hint = f"Save them in Python: numpy.savez('inputs.npz', {', '.join(f'**{{{name!r}: ...}}' for name in inputs)})"
    try:
        loaded = np.load(Path(name).expanduser(), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(inputs) != 1:
                raise UsageError(
                    f"{name} has one array, but the graph has {len(inputs)} inputs: {', '.join(inputs)}.", hint=hint
                )
            return {inputs[0]: loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except UsageError:
        raise
    except Exception as error:  # zip archives alone have six types
        raise UsageError(
            f"{name} is not a numpy file; this model takes arrays ({', '.join(inputs)}).", hint=hint
        ) from error
