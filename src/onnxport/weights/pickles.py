"""Read tensors from files that `torch.save` wrote, without running code in them.

torch's restricted unpickler creates tensors and plain containers, and refuses every other class. Its error messages
recommend to read the file without the restriction; onnxport's messages must not.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from onnxport.errors import CheckpointError, UntrustedCheckpointError
from onnxport.system.library_errors import first_line

# Messages of torch: "Unsupported global: GLOBAL a.b was not ...", "unsupported GLOBAL a.b whose ...".
_REFUSED = re.compile(r"GLOBAL\s+`?([\w.]*\w)")


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, memory-mapped; files older than torch 1.6 are read into memory.

    Args:
        file: a file that `torch.save` wrote.

    Raises:
        UntrustedCheckpointError: the file holds objects that only running code could create.
        CheckpointError: the file is truncated, damaged, not written by torch, or has no tensors by name.
    """
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        raise _unreadable(file, error) from error
    items = dict(state) if isinstance(state, dict) else {}
    tensors = {
        name: value for name, value in items.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        inside = next((name for name, value in items.items() if isinstance(value, dict) and value), None)
        what = f"a {type(state).__name__}" if inside is None else f"a training state (with weights in {inside!r}?)"
        raise CheckpointError(
            f"{file.name} holds {what}, not tensors by name.",
            hint="Load the file with the code that wrote it, and save the model with `save_pretrained`.",
        )
    return tensors


def check_pickles(files: Iterable[Path]) -> None:
    """Read files that transformers will read, so that the user sees onnxport's error messages.

    Args:
        files: files that `torch.save` wrote.

    Raises:
        CheckpointError: see `load_tensors`.
        UntrustedCheckpointError: see `load_tensors`.
    """
    for file in files:
        load_tensors(file)


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    refused = _REFUSED.search(str(error))
    if refused is not None:
        return UntrustedCheckpointError(
            f"{file.name} holds more than tensors: it needs to run {refused[1]}. `--allow-pickle` does not allow that, "
            "and no code was run.",
            hint="Get the weights as safetensors from the source of this file, or from a source that you trust.",
        )
    # The first line of an unpickler's message recommends to run the file.
    reason = f" ({first_line(error)})" if isinstance(error, RuntimeError) else ""
    return CheckpointError(
        f"{file.name} is damaged, or was not written by torch{reason}.",
        hint="Copy or download the file again.",
    )
