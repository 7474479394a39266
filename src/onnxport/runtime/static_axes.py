"""Graphs whose axes are all numbers: what is smaller is filled up, and what was filled up is cut off again.

A graph of fixed sizes says in its metadata what its axes are called, and along which of them filling up was
compared with a graph that takes any size. Anything else is refused.

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

# Of a graph's metadata; the value is JSON.
FIXED_KEY = "onnxport.variants.static_shapes.write"

Axes = tuple[int | str, ...]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FixedAxes:
    """The axes of a graph of fixed sizes.

    Attributes:
        file: name of the graph, for messages.
        axes: input or output name -> its axes as in the graph that takes any size; expressions for outputs.
        sizes: axis name -> its size here.
        given: those of them that were asked for; the others follow.
        padded: axes along which inputs may be smaller.
        fill: input -> what stands in filled places, where it is not 0.
        window: axis of a decoder's past, or None.
        added: inputs that the graph that takes any size does not have: a mask for unused places.
        graph: name of the graph in its folder that takes any size.
    """

    file: str
    axes: Mapping[str, Axes]
    sizes: Mapping[str, int]
    given: Mapping[str, int]
    padded: frozenset[str] = frozenset()
    fill: Mapping[str, int] = field(default_factory=dict)
    window: str | None = None
    graph: str = "model"
    added: frozenset[str] = frozenset()

    def filled(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An input at its fixed size: rows are filled up with the last row again, other axes behind their end.

        Raises:
            UsageError: an axis is larger, or smaller and not among `padded`.
        """
        axes = self.axes.get(name, ())
        if len(axes) != array.ndim:
            return array  # of another rank, which has an error of its own
        for place, axis in enumerate(axes):
            wanted, size = evaluate(axis, self.sizes), array.shape[place]
            if size == wanted or isinstance(axis, int):
                continue
            if size > wanted or size == 0 or axis not in self.padded:
                raise self.refused(axis, size)
            width = [(0, wanted - size if other == place else 0) for other in range(array.ndim)]
            if place == 0:
                array = np.pad(array, width, mode="edge")
            else:
                array = np.pad(array, width, constant_values=self.fill.get(name, 0))
        return array

    def sizes_of(self, inputs: Arrays) -> dict[str, int]:
        """Axis name -> the size that inputs have."""
        found: dict[str, int] = {}
        for name, array in inputs.items():
            for axis, size in zip(self.axes.get(name, ()), np.shape(array), strict=False):
                if isinstance(axis, str):
                    found.setdefault(axis, size)
        return found

    def cut(self, outputs: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """Outputs without what belongs to filled places.

        Args:
            sizes: what `sizes_of` gave for the inputs.
        """
        known = {**self.sizes, **sizes}
        return {name: self._cut(value, self.axes.get(name, ()), known) for name, value in outputs.items()}

    def _cut(self, value: NDArray[Any], axes: Axes, sizes: Mapping[str, int]) -> NDArray[Any]:
        if len(axes) != value.ndim:
            return value
        ends = [axis if isinstance(axis, int) else evaluate(axis, sizes) for axis in axes]
        if all(end == size for end, size in zip(ends, value.shape, strict=True)):
            return value
        return np.ascontiguousarray(value[tuple(slice(end) for end in ends)])

    def command(self, **sizes: int) -> str:
        """The command that makes this graph with other sizes."""
        new = {**self.given, **{name: size for name, size in sizes.items() if name in self.given}}
        return f"onnxport optimize FOLDER --sizes {','.join(f'{name}={size}' for name, size in new.items())}"

    def refused(self, axis: str, size: int) -> UsageError:
        """The error for an input of another size."""
        wanted = self.sizes[axis]
        smaller = "; smaller ones cannot be filled up, that changes the numbers" if 0 < size < wanted else ""
        other = self.command(**{axis: max(size, 1)})
        return UsageError(
            f"{axis} is {size}, and {self.file} is fixed at {wanted}{smaller}.",
            hint=f"Use the component {self.graph!r}, which takes any size, or `{other}`.",
        )

    def dumped(self) -> str:
        """The value for a graph's metadata."""
        return json.dumps(
            {
                "axes": {name: list(axes) for name, axes in self.axes.items()},
                "sizes": dict(self.sizes),
                "given": dict(self.given),
                "padded": sorted(self.padded),
                "fill": dict(self.fill),
                "window": self.window,
                "graph": self.graph,
                "added": sorted(self.added),
            },
            sort_keys=True,
        )


def read_fixed(metadata: Mapping[str, str], file: str) -> FixedAxes | None:
    """What a graph's metadata says; None for a graph that takes other sizes too.

    Args:
        file: name of the graph.
    """
    text = metadata.get(FIXED_KEY)
    if text is None:
        return None
    said = json.loads(text)
    return FixedAxes(
        file, {name: tuple(axes) for name, axes in said["axes"].items()}, said["sizes"], said["given"],
        frozenset(said["padded"]), said["fill"], said["window"], said["graph"], frozenset(said["added"]),
    )  # fmt: skip
