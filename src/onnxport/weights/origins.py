"""Where the values of a lazy tensor come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a file: little-endian, in C order.

    Attributes:
        path: the file.
        name: name of the tensor in it.
        begin: offset from the start of the file, in bytes.
    """

    path: Path
    name: str
    begin: int


@dataclass(frozen=True, eq=False)
class InMemory:
    """A tensor in memory, or memory-mapped by another library.

    Attributes:
        tensor: the tensor.
        name: where it comes from, for people.
    """

    tensor: torch.Tensor
    name: str = ""


@dataclass(frozen=True, eq=False)
class Operation:
    """The result of an operator.

    Attributes:
        operator: the operator of torch.
        args: its arguments; tensors among them are lazy.
        kwargs: its keyword arguments.
        index: which result, if it returns several.
    """

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int | None = None
