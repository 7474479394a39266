"""Which cache a decoder's graph has, by its metadata."""

from __future__ import annotations

from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.growing import GrowingCache
from onnxport.runtime.cache.in_place import InPlaceCache
from onnxport.runtime.cache.packed_rows import read_packed_rows
from onnxport.runtime.cache.static_cache import StaticCache
from onnxport.runtime.cache.static_states import StaticStates


def choose_cache(graph: DecoderGraph) -> GrowingCache:
    """The cache for a graph: in place for a fused one, and of a static length or size for one with static shapes."""
    static = graph.session.static_axes
    if static is not None:
        return StaticStates(graph, static) if static.past_axis is None else StaticCache(graph, static)
    packed = read_packed_rows(graph.session)
    return GrowingCache(graph) if packed is None else InPlaceCache(graph, packed)
