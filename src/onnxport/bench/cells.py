"""Which calls of a graph are measured: batches and lengths, and of a decoder prompts and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxport.artifact.folder import Folder
from onnxport.artifact.manifest import Component
from onnxport.bench.measure import Cell
from onnxport.graph.inputs import guess_sizes, random_inputs, verified_sizes, vocabulary_size
from onnxport.runtime.session import check_restriction

_PAST, _NEW, _TOTAL = "past_sequence_length", "sequence_length", "total_sequence_length"
# The axis that a length sets, the first of these that is dynamic, and what is measured by default.
_USUAL = {_NEW: (16, 128, 512), "num_samples": (16_000, 80_000), "num_frames": (300, 3000), "height": (224, 448)}


def usual_lengths(component: Component) -> list[int]:
    """Lengths to measure where none are given: usual ones, as far as the graph takes them."""
    varied = _varied(component)
    rules = [restriction for restriction in component.restrictions if restriction.axis == varied]
    found = []
    for length in _USUAL.get(varied or "", ()):
        for rule in rules:
            length = rule.nearest(length)
        found.append(length)
    return sorted(set(found)) or [0]


def _varied(component: Component) -> str | None:
    """The axis that a length sets, or None."""
    axes = {axis for spec in component.inputs for axis in spec.axes if isinstance(axis, str)}
    return next((axis for axis in _USUAL if axis in axes), None)


def make_cells(folder: Folder, component: Component, batches: Sequence[int], lengths: Sequence[int]) -> list[Cell]:
    """Every batch with every length; a decoder reads a prompt of that length, or writes a token after it.

    Raises:
        UsageError: the graph does not take one of these sizes.
    """
    axes = {axis for spec in component.inputs for axis in spec.axes if isinstance(axis, str)}
    varied = _varied(component)
    cells = []
    for batch in batches:
        for length in lengths if varied is not None else (0,):
            for label, sizes in _calls(component, axes, varied, batch, length):
                for restriction in component.restrictions:
                    check_restriction(restriction, sizes)
                inputs = random_inputs(component.inputs, sizes, vocabulary_size(folder.path), seed=0)
                cells.append(Cell(label, batch, length, inputs))
    return cells


def _calls(
    component: Component, axes: set[str], varied: str | None, batch: int, length: int
) -> Iterator[tuple[str, dict[str, int]]]:
    """(label, sizes) of the calls for one batch and length."""
    verified = verified_sizes(component)
    base = guess_sizes(component.inputs) | (verified[0] if verified else {})
    base |= {axis: batch for axis in axes if axis.endswith("batch_size")}
    if varied is None:
        yield "", base
    elif _PAST in axes:
        yield "prompt", base | {_NEW: length, _PAST: 0, _TOTAL: length}
        yield "step", base | {_NEW: 1, _PAST: length, _TOTAL: length + 1}
    else:
        sizes = base | {varied: length}
        yield "", sizes | ({"width": length} if varied == "height" and "width" in axes else {})
