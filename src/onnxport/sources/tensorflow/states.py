"""The states of a TensorFlow decoder: what a TF class of transformers keeps between two calls, as tensors with names.

Such a cache is a tuple of layers. A layer is a tuple of tensors, keys before values, of an encoder-decoder those of
its own tokens before those of the cross-attention; or one tensor that has keys and values stacked on its first axis.
Which is which is read from two caches that the model filled itself, so that no architecture is named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxport.errors import ExportError
from onnxport.sources.states import State

_KINDS = ("key", "value")
_OWN, _CROSS = "decoder", "encoder"


@dataclass(frozen=True)
class Sizes:
    """What a cache was filled with: rows, tokens of the decoder, and for an encoder-decoder what the encoder read."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class CacheLayout:
    """How a cache is built of states.

    Attributes:
        layers: the states of each layer, in its order.
        stacked: keys and values of a layer are one tensor.
    """

    layers: tuple[tuple[State, ...], ...]
    stacked: bool

    def states(self, branch: str) -> tuple[State, ...]:
        """Those of one branch, as `State.branch`."""
        return tuple(state for layer in self.layers for state in layer if state.branch == branch)

    def build(self, tensors: Mapping[str, Any], missing: Any = None) -> tuple[Any, ...]:
        """A cache of `tensors`, which are by the names of inputs."""
        from onnxport.sources.tensorflow.source import tensorflow

        layers = [tuple(tensors.get(state.past, missing) for state in layer) for layer in self.layers]
        return tuple(tensorflow().stack(layer, 0) if self.stacked else layer for layer in layers)

    def read(self, cache: Sequence[Any]) -> dict[str, Any]:
        """What the model left in a cache, by the names of outputs."""
        found = {}
        for layer, states in zip(cache, self.layers, strict=True):
            for index, state in enumerate(states):
                found[state.present] = layer[index]
        return found


def find_layout(
    caches: tuple[Any, Any], sizes: tuple[Sizes, Sizes], architecture: str, *, encoder: bool = False
) -> CacheLayout:
    """The layout of a cache.

    Args:
        caches: filled with rows and tokens of two sizes.
        sizes: which.
        encoder: the model has an encoder, and its decoder a cross-attention.

    Raises:
        ExportError: it holds something of another structure, or nothing.
    """
    first, second = caches
    if not isinstance(first, (tuple, list)) or not first:
        what = "nothing" if first is None else f"a {type(first).__name__} instead of keys and values"
        raise ExportError(f"{architecture} keeps {what} between two calls: as a decoder it cannot be converted.")
    stacked = hasattr(first[0], "shape")
    layers = []
    for index, (before, after) in enumerate(zip(first, second, strict=True)):
        count = int(before.shape[0]) if stacked else len(before)
        if count not in (2, 4) or (encoder and count != 4):
            raise _unknown(architecture, index, f"{count} tensors")
        layers.append(
            tuple(
                _state(index, number, before[number], after[number], sizes, architecture, _branch(number, encoder))
                for number in range(count if encoder else 2)
            )
        )
    return CacheLayout(tuple(layers), stacked)


def _branch(number: int, encoder: bool) -> str:
    return (_OWN if number < len(_KINDS) else _CROSS) if encoder else ""


def _state(
    layer: int, number: int, before: Any, after: Any, sizes: tuple[Sizes, Sizes], architecture: str, branch: str
) -> State:
    shape, other = tuple(map(int, before.shape)), tuple(map(int, after.shape))
    moved = [axis for axis, (x, y) in enumerate(zip(shape, other, strict=True)) if x != y]
    if (shape[0], other[0]) != (sizes[0].rows, sizes[1].rows):
        raise _unknown(architecture, layer, f"a tensor of shape {list(shape)} for {sizes[0].rows} rows")
    growing = [axis for axis in moved if axis != 0]
    if len(growing) > 1 or (branch != _CROSS and [shape[a] for a in growing] != [sizes[0].tokens]):
        raise _unknown(architecture, layer, f"a tensor of shape {list(shape)} for {sizes[0].tokens} tokens")
    return State(
        layer, _KINDS[number % 2], 0, shape, before.dtype.name, growing[0] if growing else None, branch
    )  # fmt: skip


def _unknown(architecture: str, layer: int, what: str) -> ExportError:
    return ExportError(
        f"{architecture} keeps {what} in layer {layer} of its cache, which onnxport cannot read as keys and values."
    )
