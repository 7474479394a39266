"""Tensors in files that `torch.save` wrote, read without running anything in them.

torch's restricted unpickler makes tensors and plain containers, and refuses every other class. Its
messages advise to read the file without that restriction; ours must not.
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

# How torch names what it refuses: "Unsupported global: GLOBAL a.b was not ...", "unsupported GLOBAL a.b whose ...".
_REFUSED = re.compile(r"GLOBAL\s+`?([\w.]*\w)")


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in `file` by name; mapped, but for files older than torch 1.6, which are read whole.

    Raises:
        UntrustedCheckpointError: it holds objects that only running code could make.
        CheckpointError: cut off, damaged, no file of torch, or without tensors by name.
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
        what = f"a {type(state).__name__}" if inside is None else f"a training state (weights under {inside!r}?)"
        raise CheckpointError(
            f"{file.name} holds {what}, not tensors by name.",
            hint="Load it with the code that wrote it, and save the model with `save_pretrained`.",
        )
    return tensors


def check_pickles(files: Iterable[Path]) -> None:
    """Read files that transformers reads next, so that the errors are these.

    Raises:
        CheckpointError, UntrustedCheckpointError: as `load_tensors`.
    """
    for file in files:
        load_tensors(file)


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    refused = _REFUSED.search(str(error))
    if refused is not None:
        return UntrustedCheckpointError(
            f"{file.name} holds more than tensors ({refused[1]}), which only running its code could read; "
            "`--allow-pickle` does not allow that. Nothing was run.",
            hint="Get the weights as safetensors from where you got this file, or from a source that you trust.",
        )
    # The first line of an unpickler's message is advice about how to run the file.
    reason = f" ({first_line(error)})" if isinstance(error, RuntimeError) else ""
    return CheckpointError(
        f"{file.name} is damaged, or not a file of tensors that torch wrote{reason}.",
        hint="Copy or download the file again.",
    )
