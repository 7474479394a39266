"""Graphs with static shapes: smaller inputs are padded, and the padding is cut off the outputs.

Such a graph records in its metadata the names of its axes, and along which of them padding gave the same outputs as
the graph with dynamic shapes. Other inputs are refused.

numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.axes import evaluate
from onnxport.errors import UsageError

# A key of the graph's metadata; the value is JSON. Folders that are in use have it: it stays as it is.
STATIC_AXES_KEY = "onnxport.fixed"

Axes = tuple[int | str, ...]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class StaticAxes:
    """The axes of a graph with static shapes.

    Attributes:
        file: name of the graph's file, for messages.
        axes: input or output name -> its axes in the graph with dynamic shapes; expressions for outputs.
        sizes: axis name -> its size in this graph.
        requested: the sizes that the user asked for; the others follow from them.
        padded: axes along which smaller inputs are padded.
        pad_values: input -> the value of its padding, where that is not 0.
        past_axis: the axis of a decoder's static cache; None if it has none.
        dynamic_graph: name of the graph with dynamic shapes in the same folder.
        added_inputs: inputs that only this graph has: an attention mask for unused entries of the cache.
    """

    file: str
    axes: Mapping[str, Axes]
    sizes: Mapping[str, int]
    requested: Mapping[str, int]
    padded: frozenset[str] = frozenset()
    pad_values: Mapping[str, int] = field(default_factory=dict)
    past_axis: str | None = None
    dynamic_graph: str = "model"
    added_inputs: frozenset[str] = frozenset()

    def pad(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An input at its static size: axis 0 is padded with its last row, other axes at their end.

        Raises:
            UsageError: an axis is larger, or smaller and not among `padded`.
        """
        axes = self.axes.get(name, ())
        if len(axes) != array.ndim:
            return array  # the error about its rank comes later
        for place, axis in enumerate(axes):
            wanted, size = evaluate(axis, self.sizes), array.shape[place]
            if size == wanted or isinstance(axis, int):
                continue
            if size > wanted or size == 0 or axis not in self.padded:
                raise self.size_error(axis, size)
            width = [(0, wanted - size if other == place else 0) for other in range(array.ndim)]
            if place == 0:
                array = np.pad(array, width, mode="edge")
            else:
                array = np.pad(array, width, constant_values=self.pad_values.get(name, 0))
        return array

    def sizes_of(self, inputs: Arrays) -> dict[str, int]:
        """Axis name -> the size that it has in the inputs."""
        found: dict[str, int] = {}
        for name, array in inputs.items():
            for axis, size in zip(self.axes.get(name, ()), np.shape(array), strict=False):
                if isinstance(axis, str):
                    found.setdefault(axis, size)
        return found

    def unpad(self, outputs: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """Outputs without padding.

        Args:
            sizes: what `sizes_of` returned for the inputs before they were padded.
        """
        known = {**self.sizes, **sizes}
        return {name: self._unpad(value, self.axes.get(name, ()), known) for name, value in outputs.items()}

    def _unpad(self, value: NDArray[Any], axes: Axes, sizes: Mapping[str, int]) -> NDArray[Any]:
        if len(axes) != value.ndim:
            return value
        ends = [axis if isinstance(axis, int) else evaluate(axis, sizes) for axis in axes]
        if all(end == size for end, size in zip(ends, value.shape, strict=True)):
            return value
        return np.ascontiguousarray(value[tuple(slice(end) for end in ends)])

    def command(self, **sizes: int) -> str:
        """The command that makes this graph with other sizes."""
        new = {**self.requested, **{name: size for name, size in sizes.items() if name in self.requested}}
        return f"onnxport optimize FOLDER --sizes {','.join(f'{name}={size}' for name, size in new.items())}"

    def size_error(self, axis: str, size: int) -> UsageError:
        """The error for an input of a size that the graph cannot take."""
        wanted = self.sizes[axis]
        smaller = "; padding this axis would change the outputs" if 0 < size < wanted else ""
        other = self.command(**{axis: max(size, 1)})
        return UsageError(
            f"{axis} is {size}, and {self.file} is fixed at {wanted}{smaller}.",
            hint=f"Use the component {self.dynamic_graph!r}, which has dynamic shapes, or `{other}`.",
        )

    def to_json(self) -> str:
        """The value for a graph's metadata, read by `read_static_axes`."""
        return json.dumps(
            {
                "axes": {name: list(axes) for name, axes in self.axes.items()},
                "sizes": dict(self.sizes),
                "given": dict(self.requested),
                "padded": sorted(self.padded),
                "fill": dict(self.pad_values),
                "window": self.past_axis,
                "graph": self.dynamic_graph,
                "added": sorted(self.added_inputs),
            },
            sort_keys=True,
        )


def read_static_axes(metadata: Mapping[str, str], file: str) -> StaticAxes | None:
    """What a graph's metadata says; None for a graph with dynamic shapes.

    Args:
        file: name of the graph's file.
    """
    text = metadata.get(STATIC_AXES_KEY)
    if text is None:
        return None
    found = json.loads(text)
    return StaticAxes(
        file=file,
        axes={name: tuple(axes) for name, axes in found["axes"].items()},
        sizes=found["sizes"],
        requested=found["given"],
        padded=frozenset(found["padded"]),
        pad_values=found["fill"],
        past_axis=found["window"],
        dynamic_graph=found["graph"],
        added_inputs=frozenset(found["added"]),
    )
