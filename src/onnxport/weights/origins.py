"""Where the numbers of a lazy tensor come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a file: C-order little-endian bytes from `begin`, counted from the file's start."""

    path: Path
    name: str
    begin: int


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor in memory, or mapped by somebody else."""

    tensor: torch.Tensor
    name: str = ""


@dataclass(frozen=True, eq=False)
class Call:
    """The result of an operator; `index` tells which one where it gives several."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int | None = None
