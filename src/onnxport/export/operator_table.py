"""Read torch.onnx's table of operators once in a process, and add what it lacks.

Upstream (torch 2.13, onnxscript 0.7): each `torch.onnx.export` reads the source code of all 500 translations of PyTorch
operators, only to find their domain. That took a fifth of the time of a small model's export, and again for each graph
of a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxport.export.complex_numbers import complex_operators

_known: dict[Any, list[Any]] = {}


@contextmanager
def operator_table() -> Iterator[None]:
    """Read the table of operators only if no export of this process did, while torch.onnx exports."""
    try:
        from torch.onnx._internal.exporter import _registration
    except ImportError:  # another version of torch is only slower
        yield
        return
    place = getattr(_registration, "onnxscript_apis", None)
    original = getattr(place, "get_torchlib_ops", None)
    if place is None or original is None:
        yield
        return

    def once() -> list[Any]:
        if original not in _known:
            _known[original] = [*original(), *complex_operators()]
        return _known[original]

    place.get_torchlib_ops = once
    try:
        yield
    finally:
        place.get_torchlib_ops = original
