"""The cache of a fused graph: one buffer is past and present, and the graph writes new tokens behind the old ones.

A buffer is longer than its tokens, so most steps copy nothing; a full one is replaced by one of twice its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.growing import GrowingCache
from onnxport.runtime.cache.packed_rows import SEQUENCE_AXIS, PackedRows
from onnxport.runtime.cache.progress import Progress
from onnxport.tensor_names import present_name

_SMALLEST_BUFFER = 256  # tokens


class InPlaceCache(GrowingCache):
    """A `GrowingCache` in buffers that are both past and present.

    Args:
        graph: the decoder's graph.
        packed: what the graph's metadata says about its cache.
    """

    def __init__(self, graph: DecoderGraph, packed: PackedRows) -> None:
        super().__init__(graph)
        self.packed = packed

    def output_buffers(self, progress: Progress, mask: NDArray[np.int64]) -> dict[str, Any]:
        """As `GrowingCache.output_buffers`; enlarges the buffers first, if needed."""
        self.packed.check(mask)
        progress.states = enlarge(progress.states, mask.shape[1], self.packed.longest)
        return {present_name(name): value for name, value in progress.states.items()}

    def update(self, progress: Progress, tokens: NDArray[Any], outputs: Mapping[str, Any], past: int) -> int:
        """As `GrowingCache.update`; the graph has written into the buffers already."""
        return -1


def enlarge(states: Mapping[str, Any], length: int, longest: int | None = None) -> dict[str, Any]:
    """Buffers with room for `length` tokens: the given ones, or copies of at least twice their length.

    Args:
        states: OrtValues, (rows, heads, tokens, features) each.
        longest: most tokens that are ever needed; None for no limit.
    """
    import onnxruntime

    found = {}
    for name, value in states.items():
        shape = list(value.shape())
        held = shape[SEQUENCE_AXIS]
        if held < length:
            wanted = max(_SMALLEST_BUFFER, 2 * held)
            while wanted < length:
                wanted *= 2
            shape[SEQUENCE_AXIS] = max(length, min(wanted, longest or wanted))
            old = value.numpy()
            new = np.zeros(shape, old.dtype)
            new[:, :, :held] = old
            value = onnxruntime.OrtValue.ortvalue_from_numpy(new)
        found[name] = value
    return found
