"""Which weights of a 4-bit graph must have 8 bits, so that its embeddings stay those of the float32 graph?

Each weight is rounded alone, on real texts. The one that loses most for each byte that 8 bits cost comes first; as many
get 8 bits as the budget needs. The weights are inputs of one session, so that no graph is loaded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.data_files import graph_bytes
from onnxport.artifact.folder import Folder
from onnxport.artifact.manifest import Component
from onnxport.errors import MemoryLimitError
from onnxport.graph.inputs import Arrays
from onnxport.graph.quantization.weight_only import find_weights, load_graph
from onnxport.system.memory import require_memory
from onnxport.variants.components import converted_components
from onnxport.variants.loss import has_scores, measure_loss
from onnxport.variants.samples import Samples, sample_inputs

# 1 - mean cosine similarity; activations of 8 bits need the rest of 0.01.
BUDGET = 0.009
_LOW, _HIGH = 4, 8
_COPIES = 3  # of the weights: in ONNX Runtime, and rounded to 4 and to 8 bits
_EACH = 8  # calls of which one measures a single weight
_SOME = 2  # calls of which one measures a number of raised weights


def choose_raised(folder: Folder, component: Component) -> tuple[str, ...]:
    """Names of the weights that need 8 bits in a graph of 4, the most sensitive first.

    Only embeddings of texts are judged. Of a graph with labels or tokens, a share of a few hundred decisions is too
    coarse; of one without real inputs there is nothing to measure. Where a decoder reads an encoder's states, they are
    no embeddings, and tables are stored once for both. Where the weights do not fit in memory, none is raised.

    Args:
        folder: where the graph is.
        component: its record; float32.
    """
    file = folder.file(component)
    alone = len(converted_components(folder.manifest)) == 1
    if not alone or has_scores(spec.name for spec in component.outputs) or _is_too_large(file):
        return ()
    samples = sample_inputs(folder, component)
    if not samples.real:
        return ()
    graph = _OpenWeights(file, samples)
    if not graph.loss(graph.names) > BUDGET:  # NaN says nothing
        return ()
    ordered = sorted(graph.names, key=lambda name: -graph.loss([name], every=_EACH) / graph.size(name))
    enough = fewest(
        len(ordered), lambda count: graph.loss(ordered[count:], ordered[:count], every=_SOME) <= BUDGET
    )  # fmt: skip
    return tuple(ordered[:enough])


def fewest(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from 1 to `count` that holds, where all larger ones hold too; `count` is taken to."""
    few, enough = 0, count
    while enough - few > 1:
        middle = (few + enough) // 2
        if holds(middle):
            enough = middle
        else:
            few = middle
    return enough


def _is_too_large(file: Path) -> bool:
    try:
        require_memory(_COPIES * graph_bytes(file), f"Measuring the weights of {file.name}", "")
    except MemoryLimitError:
        return True
    return False


class _OpenWeights:
    """A graph whose weights are given at each call."""

    def __init__(self, file: Path, samples: Samples) -> None:
        model = load_graph(file)
        self._samples = samples
        found = find_weights(model)
        self._rounded = {bits: _rounded(found, bits) for bits in (_LOW, _HIGH)}
        self.names = list(self._rounded[_LOW])
        model.graph.inputs.extend(weight.value for weight in found)
        self._session = open_session(model, file)
        self._known = {spec.name for spec in self._session.get_inputs()}
        self._outputs = [spec.name for spec in self._session.get_outputs()]
        self._wanted = [self._run(call, {}) for call in samples.arrays]

    def size(self, name: str) -> int:
        """Number of values of a weight."""
        return int(self._rounded[_LOW][name].size)

    def loss(self, low: Collection[str], high: Collection[str] = (), *, every: int = 1) -> float:
        """Mean loss with these weights of 4 bits and those of 8; all others are float32.

        Args:
            every: 8 measures each eighth call only.
        """
        weights = {name: self._rounded[_LOW][name] for name in low}
        weights |= {name: self._rounded[_HIGH][name] for name in high}
        calls = self._samples.arrays[::every]
        wanted = iter(self._wanted[::every])
        loss = measure_loss(lambda _: next(wanted), lambda call: self._run(call, weights), calls, "")
        return loss.mean

    def _run(self, call: Arrays, weights: Mapping[str, np.ndarray]) -> Arrays:
        given = {name: array for name, array in call.items() if name in self._known} | dict(weights)
        return dict(zip(self._outputs, self._session.run(None, given), strict=True))


def open_session(model: Any, file: Path) -> Any:
    """A session of a changed graph, whose large weights are still in the files beside `file`."""
    import onnx_ir as ir
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def _rounded(found: Sequence[Any], bits: int) -> dict[str, np.ndarray]:
    from onnxport.graph.quantization.blocks import dequantized_strips

    return {
        weight.value.name: np.concatenate(
            list(dequantized_strips(weight.value.const_value, bits, by_row=weight.by_row))
        )
        for weight in found
    }
