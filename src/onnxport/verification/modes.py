"""Sizes from which on a source does something else, seen from what it changes in its own state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from onnxport.export.signature import Signature
from onnxport.sources.base import Source
from onnxport.specs import Limit, Restriction
from onnxport.verification.case import Case
from onnxport.verification.plan import rows_of


def limit_by_mode(
    source: Source, signature: Signature, cases: Sequence[Case], changed: Sequence[tuple[str, ...]]
) -> list[Case]:
    """Give the cases in which the model changed something else in its state than in the traced one a `Case.limit`.

    BigBird switches to full attention after a short input; models with longrope replace their frequencies after a long
    one. The graph does what the model does at the traced sizes. Where it is wrong in another mode, it is restricted to
    the sizes before.

    Args:
        changed: names of what each case changed in the model's state.
    """
    traced, found = cases[0], []
    boundaries: dict[str, int] = {}
    for case, names in zip(cases, changed, strict=True):
        other = sorted(set(names) ^ set(changed[0]))
        if not other or case.limit is not None or not case.sizes:  # without free axes there is nothing to restrict
            found.append(case)
            continue
        axis = next((a for a, size in case.sizes.items() if size > 2 * traced.sizes[a]), None)
        reason = f"beyond, the model's code takes another way (it changes {other[0]})"
        if axis is None:
            limit = Restriction(next(iter(case.sizes)), Limit.NOTE, f"not as in the case {case.name!r}", reason)
        else:
            if axis not in boundaries:
                boundaries[axis] = _boundary(source, signature, axis, case.sizes[axis], set(changed[0]))
            limit = Restriction(axis, Limit.AT_MOST, boundaries[axis], reason)
        found.append(replace(case, limit=limit))
    return found


def _boundary(source: Any, signature: Signature, axis: str, size: int, changed: set[str]) -> int:
    """The largest size along an axis at which the model changes what it changes at the traced sizes."""
    generator = signature.generator
    sizes = {dim.name: dim.base_size for dim in generator.dims} | dict.fromkeys(rows_of(generator, signature), 1)
    low, high = sizes.get(axis, 1), size
    while high - low > 1:
        middle = (low + high) // 2
        same = False
        with suppress(Exception):  # the model refuses that size
            same = set(source.run_noting(generator.make(sizes | {axis: middle}))[1]) == changed
        low, high = (middle, high) if same else (low, middle)
    return low
