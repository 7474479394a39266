"""Make inputs for a graph when the source model is not available.

Sizes come from the cases that verification recorded in the manifest; values are random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxport.artifact.manifest import Component
from onnxport.axes import evaluate
from onnxport.errors import CheckpointError, FolderError
from onnxport.formats.json_file import read_object
from onnxport.specs import TensorSpec
from onnxport.system.memory import current_limit
from onnxport.tensor_names import NUM_LOGITS, NUM_LOGITS_TO_KEEP

Arrays = dict[str, np.ndarray]

_GRID = "image_grid_thw"  # the patch grid of an image: frames, rows, columns
_MERGED_SIDE = 2  # patches are merged in squares of this side

_MOST_SIZES = 12  # the basic ones come first, then the ends of axes, which cost more
_MOST_BYTES = 2**31  # of all inputs of a run; a decoder's cache of 64 layers and 2,000 tokens takes half of it
_DEFAULT_SIZES = {"batch_size": 2, "sequence_length": 11, "height": 224, "width": 224, "num_samples": 16000}


def verified_sizes(component: Component) -> list[dict[str, int]]:
    """Return the input sizes of the cases that passed verification.

    Args:
        component: the component's entry in the manifest.

    Returns:
        Axis name to size, one dict per distinct case; guessed sizes if there are no cases.
    """
    cases = component.verification.cases if component.verification else ()
    needed = _axis_names(component.inputs)  # cases of generation have other sizes
    usable = [dict(case.sizes) for case in cases if case.ok and needed <= case.sizes.keys()]
    distinct = {tuple(sorted(sizes.items())): sizes for sizes in usable}
    return list(distinct.values())[:_MOST_SIZES] or [guess_sizes(component.inputs)]


def guess_sizes(inputs: Sequence[TensorSpec], more: int = 0) -> dict[str, int]:
    """Return usual sizes for the named axes of `inputs`.

    Args:
        inputs: inputs of a graph.
        more: added to every size.
    """
    sizes = {name: _DEFAULT_SIZES.get(name, 2) + more for name in sorted(_axis_names(inputs))}
    if {"past_sequence_length", "sequence_length", "total_sequence_length"} <= sizes.keys():
        sizes["total_sequence_length"] = sizes["past_sequence_length"] + sizes["sequence_length"]
    return sizes


def _axis_names(inputs: Sequence[TensorSpec]) -> set[str]:
    return {axis for spec in inputs for axis in spec.axes if isinstance(axis, str)}


def vocabulary_size(folder: Path) -> int:
    """Return the vocabulary size from config.json, or 100 if it has none.

    Args:
        folder: the converted folder.
    """
    try:
        config = read_object(folder / "config.json")
    except CheckpointError:
        return 100
    for part in (config, config.get("text_config")):
        size = part.get("vocab_size") if isinstance(part, dict) else None
        if isinstance(size, int) and 0 < size < 2**31:
            return size
    return 100


def random_inputs(inputs: Sequence[TensorSpec], sizes: dict[str, int], vocabulary: int, seed: int) -> Arrays:
    """Make an array for every input.

    Args:
        inputs: inputs of a graph.
        sizes: size of every named axis.
        vocabulary: token ids are below this number.
        seed: the same seed gives the same values.

    Returns:
        Arrays by input name: floats from a normal distribution, masks of ones, random token ids, other integers 0.

    Raises:
        FolderError: an axis is no expression of the sizes, or the inputs would take more memory than there may be.
    """
    shapes = {spec.name: _shape(spec, sizes) for spec in inputs}
    counts = [math.prod(shape) for shape in shapes.values()]
    needed = 4 * sum(counts) + 8 * max(counts, default=0)  # float32, and one at a time in 64 bits before
    if needed > min(current_limit() or _MOST_BYTES, _MOST_BYTES):
        raise FolderError(
            f"Inputs of the sizes that are on record would take {needed / 2**30:.1f} GiB of memory.",
            hint="Do not use this folder if you do not know who made it; else check it on a machine with more memory.",
        )
    rng = np.random.default_rng([seed, *sizes.values()])
    arrays: Arrays = {}
    for spec in inputs:
        shape = shapes[spec.name]
        if spec.name == NUM_LOGITS_TO_KEEP:
            value: np.ndarray = np.array(sizes.get(NUM_LOGITS, 0))
        elif spec.dtype.startswith("float"):
            value = rng.standard_normal(shape)
        elif "mask" in spec.name or spec.dtype == "bool":
            value = np.ones(shape)
        elif spec.name == _GRID:
            patches = next(evaluate(other.axes[0], sizes) for other in inputs if other.name == "pixel_values")
            value = np.broadcast_to(_grid(patches, rng), shape)
        elif spec.name == "bbox":
            low = rng.integers(0, 500, (*shape[:-1], 2))
            value = np.concatenate([low, low + 100], -1)
        elif spec.name.endswith("input_ids"):
            value = rng.integers(0, vocabulary, shape)
        else:
            value = np.zeros(shape)  # token_type_ids and other indices of small tables
        arrays[spec.name] = value.astype(spec.dtype)
    return arrays


def _shape(spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    try:
        shape = tuple(evaluate(axis, sizes) for axis in spec.axes)
    except (KeyError, ValueError) as error:
        raise FolderError(f"The axes {list(spec.axes)} of {spec.name} do not follow from the sizes {sizes}.") from error
    if min(shape, default=0) < 0:
        raise FolderError(f"The axes {list(spec.axes)} of {spec.name} are negative at the sizes {sizes}.")
    return shape


def _grid(patches: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a grid (frames, rows, columns) of this many patches; one row if they do not form whole squares."""
    squares, rest = divmod(patches, _MERGED_SIDE**2)
    if rest or not squares:
        return 1, 1, patches
    rows = int(rng.choice([number for number in range(1, squares + 1) if squares % number == 0]))
    return 1, rows * _MERGED_SIDE, squares // rows * _MERGED_SIDE
