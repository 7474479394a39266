"""Static int8 variants of encoders: calibrated on samples of the task, or on a user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component
from onnxport.artifact.tuning import Calibration, Loss
from onnxport.errors import UsageError, did_you_mean
from onnxport.graph.quantization.static_int8 import METHODS, quantize_static
from onnxport.specs import TensorSpec
from onnxport.tensor_names import is_past
from onnxport.variants.components import converted_components
from onnxport.variants.loss import measure_loss
from onnxport.variants.rewrite import Rewrite, add_variant
from onnxport.variants.samples import Samples, read_texts, require_texts, sample_inputs
from onnxport.variants.static_plan import choose_plan

_ARRAYS = ".npz"
_ROWS = 4  # of a call, of a user's arrays
_SIZE = 0.25  # of the new weights, as a part of the old ones
_OTHER = "Use another precision: --precision int8 or int8-weights."


def add_static_int8(path: Path, method: str = "minmax", data: Path | None = None) -> Path:
    """Store `onnx/model_int8_static.onnx` in a folder.

    Args:
        path: a folder that onnxport wrote for an encoder of texts, images or sounds.
        method: how the range of an activation follows from its values: "minmax", "percentile" (99.999) or "entropy".
        data: texts, one in each line; or an `.npz` file with an array of samples for each input of the graph. None for
            the samples of the package.

    Returns:
        The file that was written.

    Raises:
        FolderError: no such folder, or it is damaged.
        UsageError: no such method, data that cannot be read, a bare graph, or a graph that generates.
        VerificationError: its outputs differ by more than the tolerance.
    """
    if method not in METHODS:
        raise UsageError(
            f"The calibration {method!r} does not exist.",
            hint=did_you_mean(method, METHODS) or f"Use one of {', '.join(METHODS)}.",
        )
    if path.suffix == ".onnx" and not path.is_dir():
        raise UsageError(
            f"{path} is a single graph, of which no samples are known; int8-static works on a folder.",
            hint="Convert to a folder, or use another precision: --precision int8.",
        )
    folder = open_folder(path)
    bases = converted_components(folder.manifest)
    states = next((base for base in bases if any(is_past(spec.name) for spec in base.inputs)), None)
    if states is not None or len(bases) > 1:
        what = f"{(states or bases[-1]).file} runs after others or generates"
        raise UsageError(f"int8-static is for single encoders, and {what}.", hint=_OTHER)
    maker = _Maker(folder, method, data)
    step = Rewrite("int8_static", "int8-static", maker.write, _SIZE, _OTHER, about=lambda _: maker.found)
    return add_variant(path, step)


class _Maker:
    """Writes the graph of a folder, and keeps what was measured."""

    def __init__(self, folder: Folder, method: str, data: Path | None) -> None:
        self._folder, self._method, self._data = folder, method, data
        self.found: dict[str, Any] = {}

    def write(self, sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> None:
        """See `Rewrite.write`: half of the samples calibrate, the others measure the loss."""
        (base,) = converted_components(self._folder.manifest)
        samples = _samples(self._folder, base, self._data)
        given = samples.arrays[::2]
        count = sum(len(next(iter(call.values()))) for call in given)
        for source, target in zip(sources, targets, strict=True):
            chosen = choose_plan(source, replace(samples, arrays=given))
            quantize_static(source, target, given, self._method, chosen.plan)
            self.found = {
                "calibration": Calibration(
                    self._method, count, samples.kind, chosen.smoothing, chosen.float_activations
                ),
                "loss": _loss(source, target, samples),
            }


def _loss(source: Path, target: Path, samples: Samples) -> Loss:
    from onnxport.runtime.session import OnnxSession

    others = samples.arrays[1::2] or samples.arrays
    return measure_loss(OnnxSession(source).run, OnnxSession(target).run, others, samples.kind)


def _samples(folder: Folder, base: Component, data: Path | None) -> Samples:
    if data is not None and data.suffix == _ARRAYS:
        return _arrays(base.inputs, data)
    texts = read_texts(data) if data is not None else None
    require_texts(folder, texts)
    return sample_inputs(folder, base, texts)


def _arrays(inputs: Sequence[TensorSpec], data: Path) -> Samples:
    """The samples of a file, in calls of a few rows.

    Raises:
        UsageError: it cannot be read, or has not the inputs of the graph.
    """
    names = [spec.name for spec in inputs]
    hint = (
        f"Give an .npz file with an array for each input: numpy.savez(FILE, {names[0]}=array), a row for each sample."
    )
    try:
        with np.load(data, allow_pickle=False) as file:
            known = {spec.name: np.asarray(file[spec.name], spec.dtype) for spec in inputs if spec.name in file.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"{data} cannot be read: {error}.", hint=hint) from error
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(f"{data} has no array {missing[0]!r}.", hint=hint)
    sizes = {len(array) if array.ndim else 0 for array in known.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise UsageError(f"The arrays of {data} have {sorted(sizes)} rows.", hint=hint)
    (rows,) = sizes
    calls = [{name: array[start : start + _ROWS] for name, array in known.items()} for start in range(0, rows, _ROWS)]
    return Samples(calls, f"{rows} samples of {data.name}", rows)
