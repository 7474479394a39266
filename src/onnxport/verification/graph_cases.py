"""Two graphs on the same inputs: what a reference graph makes of them, and whether another graph makes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxport.dummy_inputs.base import Arrays, Sizes
from onnxport.graph.inputs import random_inputs
from onnxport.specs import CaseCheck, TensorSpec
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import is_past
from onnxport.verification.case import Case
from onnxport.verification.compare import check_case
from onnxport.verification.sessions import session_for

Run = Callable[[Arrays], Arrays]
_MASK = "attention_mask"
_PADDED = 4  # cases


def random_cases(
    reference: Path, inputs: Sequence[TensorSpec], sizes: Sequence[Sizes], vocabulary: int
) -> list[Case]:  # fmt: skip
    """What the graph in the file `reference` makes of random inputs.

    Args:
        inputs: of the graph, as declared.
        sizes: axis name -> size, for each case.
        vocabulary: number of tokens.

    Raises:
        FolderError, UsageError: ONNX Runtime cannot load the graph, or run it at these sizes.
    """
    session = session_for(reference)
    cases = []
    for number, case in enumerate(sizes):
        arrays = random_inputs(inputs, case, vocabulary, number)
        cases.append(Case(f"evidence {number + 1}", case, arrays, session.run(arrays)))
    return cases


def padded_cases(
    reference: Path, inputs: Sequence[TensorSpec], sizes: Sequence[Sizes], vocabulary: int
) -> list[Case]:  # fmt: skip
    """The same with rows of padding of different lengths, at both ends, and one row that is padding alone.

    None for a graph without a mask (rows, tokens), and for a decoder with a cache.
    """
    names = {spec.name for spec in inputs}
    if _MASK not in names or any(is_past(name) for name in names):
        return []
    session = session_for(reference)
    cases: list[Case] = []
    for number, case in enumerate(sizes):
        arrays = random_inputs(inputs, case, vocabulary, number)
        mask = arrays[_MASK]
        if mask.ndim != 2 or min(mask.shape) < 2 or len(cases) == _PADDED:
            continue
        for row in range(len(mask) - 1):
            mask[row, mask.shape[1] - (row * mask.shape[1]) // len(mask) :] = 0
        mask[-1] = 0
        if len(cases) % 2:
            mask[:] = mask[:, ::-1].copy()
            mask[-1, -1] = 1
        outputs = session.run(arrays)
        if not all(np.isfinite(value).all() for value in outputs.values() if value.dtype.kind == "f"):
            mask[-1, 0] = 1  # a model that gives no numbers for a row without tokens
            outputs = session.run(arrays)
        cases.append(Case(f"evidence {number + 1}, padded", case, arrays, outputs))
    return cases


def compare_call(
    case: tuple[str, Mapping[str, int]], reference: tuple[Run, Arrays], other: tuple[Run, Arrays], *,
    decision: str | None, outputs: Sequence[TensorSpec] | None, tolerance: tuple[float, float],
) -> CaseCheck | str:  # fmt: skip
    """One call of both.

    Args:
        case: its name and sizes, for the record.
        reference, other: what runs a graph, and the inputs that it gets.
        decision: as for `compare`.
        outputs: as for `check_case`.
        tolerance: (absolute, relative to the scale).

    Returns:
        The comparison; where the reference does not run, the first line of what it says.
    """
    (name, sizes), (run, inputs) = case, reference
    try:
        wanted = run(inputs)
    except Exception as error:  # whatever the run time says
        return first_line(error)
    return check_case(other[0], Case(name, dict(sizes), other[1], wanted), decision, outputs, *tolerance)
