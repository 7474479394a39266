"""What a manifest may say: limits on its lists, known types, and axes that are expressions.

Checked where the manifest is read, so that no later step allocates for a number in it or fails on one of its texts.
"""

from __future__ import annotations

import re
from typing import Any

from onnxport.artifact.manifest import Component, Manifest
from onnxport.axes import names_in
from onnxport.errors import FolderError

# Larger than any model that was converted: 3 graphs, 2 x 128 cache tensors, 12 variants.
_COMPONENTS, _TENSORS, _AXES, _CASES = 256, 4096, 16, 4096
_LARGEST_SIZE = 2**40  # of an axis
_LONGEST_EXPRESSION = 500  # characters
_TYPE = re.compile(r"bool|str|object|unknown|(b?float|u?int|complex)\d+\w{0,12}")
_HINT = "Do not use this folder: onnxport does not write such a manifest."


def check_limits(manifest: Manifest) -> None:
    """Whether onnxport can have written these numbers and axes.

    Raises:
        FolderError: names the field.
    """
    _at_most("components", len(manifest.components), _COMPONENTS)
    for index, component in enumerate(manifest.components):
        _check_component(component, f"components[{index}]")


def _check_component(component: Component, where: str) -> None:
    for kind, specs in (("inputs", component.inputs), ("outputs", component.outputs)):
        _at_most(f"{where}.{kind}", len(specs), _TENSORS)
        for number, spec in enumerate(specs):
            place = f"{where}.{kind}[{number}]"
            _at_most(f"{place}.axes", len(spec.axes), _AXES)
            if not _TYPE.fullmatch(spec.dtype):
                raise _wrong(f"{place}.dtype", f"is {spec.dtype[:60]!r}, which is no type of a tensor")
            for axis in spec.axes:
                _check_axis(axis, f"{place}.axes")
    if component.verification is not None:
        _at_most(f"{where}.verification.cases", len(component.verification.cases), _CASES)
        for case in component.verification.cases:
            for name, size in case.sizes.items():
                _check_size(size, f"{where}.verification.cases, {name[:60]}")


def _check_axis(axis: int | str, where: str) -> None:
    if isinstance(axis, int):
        return _check_size(axis, where)
    if len(axis) > _LONGEST_EXPRESSION:
        raise _wrong(where, f"has an axis of {len(axis)} characters")
    try:
        names_in(axis)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _wrong(where, f"has the axis {axis[:60]!r}, which is not an expression") from None
    return None


def _check_size(size: Any, where: str) -> None:
    if not 0 <= size <= _LARGEST_SIZE:
        raise _wrong(where, f"has the size {size if abs(size) < 10**20 else 'of more than 20 digits'}")


def _at_most(where: str, count: int, most: int) -> None:
    if count > most:
        raise _wrong(where, f"has {count:,} entries; at most {most:,} are read")


def _wrong(where: str, what: str) -> FolderError:
    return FolderError(f"The manifest is wrong: `{where}` {what}.", hint=_HINT)
