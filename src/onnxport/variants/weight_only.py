"""Weight-only variants: of 4 bits, with more for the weights that would lose too much."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import open_folder
from onnxport.artifact.manifest import Component
from onnxport.graph.quantization.quantize import write_weight_only
from onnxport.serialization.written_model import WrittenModel

_RAISED_FROM = 4  # bits


class WeightOnly:
    """Writes the weight-only graphs of a folder or of one file, and knows which weights got 8 bits.

    Args:
        path: a folder that onnxport wrote, or a graph file.
        bits: 4 or 8.
        float_activations: see `write_weight_only`. No weight is raised then: ONNX Runtime unpacks weights of 8 bits at
            every call where activations are float32, which is sixty times slower.
    """

    def __init__(self, path: Path, bits: int, float_activations: bool) -> None:
        self._path, self._bits, self._float_activations = path, bits, float_activations
        self._raised: dict[str, tuple[str, ...]] = {}

    def write(
        self, sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]
    ) -> list[WrittenModel]:  # fmt: skip
        """Write a graph for each source; see `Rewrite.write`."""
        raised = [self.choose(source) for source in sources]
        return write_weight_only(
            sources, targets, self._bits, float_activations=self._float_activations, raised=raised, taken=taken
        )

    def about(self, base: Component) -> dict[str, Any]:
        """What the record of the graph made from `base` says besides."""
        return {"raised_weights": self._raised.get(base.file, ())}

    def choose(self, source: Path) -> tuple[str, ...]:
        """Names of the weights that need more than 4 bits; see `choose_raised`."""
        from onnxport.variants.sensitivity import choose_raised

        if self._bits != _RAISED_FROM or self._float_activations or self._path.suffix == ".onnx":
            return ()
        folder = open_folder(self._path)
        component = next(one for one in folder.manifest.components if folder.file(one) == source)
        if component.file not in self._raised:
            self._raised[component.file] = choose_raised(folder, component)
        return self._raised[component.file]
