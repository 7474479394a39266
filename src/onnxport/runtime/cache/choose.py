"""Which cache a decoder's graph has, by its metadata."""

from __future__ import annotations

from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.growing import GrowingCache
from onnxport.runtime.cache.in_place import InPlaceCache
from onnxport.runtime.cache.packed_rows import read_packed_rows
from onnxport.runtime.cache.static import StaticCache
from onnxport.runtime.cache.window import WindowCache


def choose_cache(graph: DecoderGraph) -> GrowingCache:
    """The cache for a graph: in place for a fused one, a window or recurrent states for static shapes."""
    static = graph.session.static_axes
    if static is not None:
        return StaticCache(graph, static) if static.window is None else WindowCache(graph, static)
    packed = read_packed_rows(graph.session)
    return GrowingCache(graph) if packed is None else InPlaceCache(graph, packed)
