"""The states of a graph with static shapes and without keys and values: recurrent states of a static size."""

from __future__ import annotations

from typing import Any

from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.growing import GrowingCache
from onnxport.runtime.cache.ort_values import to_array
from onnxport.runtime.static_axes import StaticAxes


class StaticStates(GrowingCache):
    """A `GrowingCache` whose number of rows is fixed and whose encoder inputs are padded.

    Args:
        graph: the decoder's graph.
        static: its axes.
    """

    def __init__(self, graph: DecoderGraph, static: StaticAxes) -> None:
        super().__init__(graph)
        self.static = static
        self._rows_axis = str(graph.specs[graph.tokens].axes[0])

    def check_rows(self, rows: int) -> None:
        """As `GrowingCache.check_rows`."""
        if rows != self.static.sizes.get(self._rows_axis, rows):
            raise self.static.size_error(self._rows_axis, rows)

    def pad_encoder_input(self, name: str, value: Any) -> Any:
        """As `GrowingCache.pad_encoder_input`.

        Raises:
            UsageError: it is larger, or must not be padded.
        """
        return self.static.pad(name, to_array(value))
