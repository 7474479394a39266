"""Read torch.onnx's table of operators once in a process, and add what it lacks.

Upstream (torch 2.13, onnxscript 0.7): each `torch.onnx.export` reads the source code of all 500 translations of PyTorch
operators, only to find their domain. That took a fifth of the time of a small model's export, and again for each graph
of a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from onnxport.export.complex_numbers import complex_operators
from onnxport.system.replaced import replaced

_known: dict[Any, list[Any]] = {}


@contextmanager
def operator_table() -> Iterator[None]:
    """Read the table of operators only if nothing in this process did, while torch.onnx exports."""
    place = _place()
    if place is None:
        yield
        return
    original = place.get_torchlib_ops
    with replaced(place, "get_torchlib_ops", lambda: _once(original)):
        yield


def read_operators() -> None:
    """Read the table now, for later exports of this process and of those that are forked from it."""
    if place := _place():
        _once(place.get_torchlib_ops)


def _once(original: Callable[[], list[Any]]) -> list[Any]:
    if original not in _known:
        _known[original] = [*original(), *complex_operators()]
    return _known[original]


def _place() -> Any:
    """The module whose `get_torchlib_ops` torch.onnx calls; None in another version of torch, which is only slower."""
    try:
        from torch.onnx._internal.exporter import _registration
    except ImportError:
        return None
    place = getattr(_registration, "onnxscript_apis", None)
    return place if hasattr(place, "get_torchlib_ops") else None
