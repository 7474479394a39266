"""The cache of a graph with dynamic shapes: every call returns a longer one, in new buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.progress import Progress
from onnxport.tensor_names import present_name

Arrays = Mapping[str, NDArray[Any]]


class GrowingCache:
    """What a `Decoder` asks of a cache; the other caches override what differs.

    Args:
        graph: the decoder's graph.

    Attributes:
        longest: most tokens that the cache can see, with those of the call; None for no limit of its own.
    """

    longest: int | None = None

    def __init__(self, graph: DecoderGraph) -> None:
        self.graph = graph

    def check_rows(self, rows: int) -> None:
        """Raises UsageError: the graph cannot run this number of rows."""

    def check_length(self, length: int) -> None:
        """Raises UsageError: a text of `length` tokens, padding included, does not fit."""

    def empty_state(self, name: str, rows: int) -> Any:
        """The OrtValue of a state before the first token: no past, and recurrent states of zeros."""
        spec = self.graph.specs[name]
        shape = [rows, *(0 if isinstance(size, str) else size for size in spec.axes[1:])]
        return self.graph.value(name, np.zeros(shape, spec.dtype))

    def pad_encoder_input(self, name: str, value: Any) -> Any:
        """What an encoder gave, at the size of the graph."""
        return value

    def pad_rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array with as many rows as the graph runs."""
        return array

    def calls(self, progress: Progress, length: int) -> Iterator[slice]:
        """Which of `length` new tokens go into each call of the graph.

        Raises:
            UsageError: they do not fit.
        """
        size = 1 if self.graph.one_token else length
        for start in range(0, length, size):
            yield slice(start, start + size)

    def with_pending(self, progress: Progress, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The inputs of new tokens, with those of tokens that must be passed again before them."""
        return dict(feeds)

    def pad_inputs(self, arrays: Arrays, past: int) -> dict[str, NDArray[Any]]:
        """The inputs of a call at the sizes of the graph.

        Args:
            arrays: the tokens, `attention_mask` of all tokens so far and `position_ids`.
            past: number of tokens in the cache.
        """
        return dict(arrays)

    def output_buffers(self, progress: Progress, mask: NDArray[np.int64]) -> dict[str, Any]:
        """The OrtValues into which the graph writes its new cache, by output name; empty for new buffers.

        Args:
            mask: (rows, tokens) of all tokens, with those of this call.

        Raises:
            UsageError: the graph gives wrong results with this mask.
        """
        return {}

    def update(self, progress: Progress, tokens: NDArray[Any], outputs: Mapping[str, Any], past: int) -> int:
        """Take the new cache from the outputs of a call.

        Args:
            tokens: (rows, tokens, ...) the tokens of the call, with pending ones.
            past: number of tokens in the cache before the call.

        Returns:
            Which of the logits (rows, tokens, vocabulary) belong to the last token.
        """
        progress.states = {name: outputs[present_name(name)] for name in self.graph.states}
        return -1
