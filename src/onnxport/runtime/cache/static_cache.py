"""The cache of a decoder with static shapes: keys and values of the last P tokens; a call takes N tokens.

The text is aligned to the right. Unused entries are on the left and are masked. A call appends N tokens, and the
graph returns the last P entries. A call with fewer than N tokens has them first; the rest is padding, masked, and is
not kept. So the graph sees the text's own tokens in their order, as a graph with dynamic shapes does.

When the cache is full, the tokens of the next call stay pending: they are passed again with those after them, while
a call has room. P + N tokens is all that such a graph can see; a longer text is refused.

numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.axes import evaluate
from onnxport.errors import UsageError
from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.growing import Arrays
from onnxport.runtime.cache.ort_values import to_array
from onnxport.runtime.cache.progress import Progress
from onnxport.runtime.cache.static_states import StaticStates
from onnxport.runtime.static_axes import StaticAxes
from onnxport.tensor_names import present_name

_MASK = "attention_mask"


class StaticCache(StaticStates):
    """A `StaticStates` of keys and values of the last tokens.

    Args:
        graph: the decoder's graph.
        static: its axes, with a `past_axis`.

    Attributes:
        rows: rows of every call.
        past: entries of the cache, P.
        new: tokens of a call, N.
        longest: most tokens that are seen, P + N.
        new_axis: the name of the axis of a call's tokens; a number where the model itself fixes it.
    """

    longest: int

    def __init__(self, graph: DecoderGraph, static: StaticAxes) -> None:
        super().__init__(graph, static)
        assert static.past_axis is not None
        self._past_axis = static.past_axis
        rows, self.new_axis = static.axes[graph.tokens][:2]
        self._rows_axis = rows if isinstance(rows, str) else ""  # where the model itself fixes it, it has no name
        self.rows, self.past, self.new = (
            evaluate(axis, static.sizes) for axis in (rows, static.past_axis, self.new_axis)
        )
        self.longest = self.past + self.new
        self._total_axis = static.axes[_MASK][1]

    def check_rows(self, rows: int) -> None:
        """As `GrowingCache.check_rows`; fewer rows than the graph has are padded."""
        if rows > self.rows:
            command = self.static.command(**{self._rows_axis: rows})
            raise UsageError(
                f"There are {rows} rows (texts, beams, answers), and {self.static.file} is fixed at {self.rows}.",
                hint=f"Give fewer at a time, use the component {self.static.dynamic_graph!r}, or `{command}`.",
            )

    def check_length(self, length: int) -> None:
        """As `GrowingCache.check_length`."""
        if length > self.longest:
            longer = self.static.command(**{self._past_axis: length - self.new})
            raise UsageError(
                f"The text has {length} tokens with padding, and {self.static.file} sees {self.longest} at most "
                f"({self._past_axis} {self.past} and {self.new} of a call); it would forget the first ones.",
                hint=f"Give a shorter prompt or a smaller max_new_tokens, use the component "
                f"{self.static.dynamic_graph!r}, or `{longer}`.",
            )

    def empty_state(self, name: str, rows: int) -> Any:
        """As `GrowingCache.empty_state`: all entries are unused."""
        spec = self.graph.specs[name]
        shape = [evaluate(axis, self.static.sizes) for axis in spec.axes]
        return self.graph.value(name, np.zeros(shape, spec.dtype))

    def pad_encoder_input(self, name: str, value: Any) -> Any:
        """As `StaticStates.pad_encoder_input`, with all rows."""
        return super().pad_encoder_input(name, self.pad_rows(to_array(value)))

    def pad_rows(self, array: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        """As `GrowingCache.pad_rows`: repeats the first row, because a row of padding alone may give NaN."""
        missing = self.rows - array.shape[axis]
        if not missing:
            return array
        return np.concatenate([array, *[np.take(array, [0], axis)] * missing], axis)

    def calls(self, progress: Progress, length: int) -> Iterator[slice]:
        """As `GrowingCache.calls`: the shortest call first, so that no entry stays unused."""
        pending = self._pending(progress)
        end = (length + pending) % self.new or self.new
        end -= pending
        yield slice(0, end)
        for start in range(end, length, self.new):
            yield slice(start, start + self.new)

    def check_full_prefill(self, length: int) -> None:
        """Raises UsageError: a prompt that must come in one call has more tokens than a call."""
        if length > self.new:
            raise UsageError(
                f"This model needs the whole prompt in one call. It has {length} tokens, and {self.static.file} is "
                f"fixed at {self.new} a call.",
                hint=f"Use the component {self.static.dynamic_graph!r}.",
            )

    def with_pending(self, progress: Progress, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """As `GrowingCache.with_pending`."""
        pending = progress.pending_tokens
        return {n: np.concatenate([pending[n], array], 1) if n in pending else array for n, array in feeds.items()}

    def pad_inputs(self, arrays: Arrays, past: int) -> dict[str, NDArray[Any]]:
        """As `GrowingCache.pad_inputs`: tokens at the right, and the mask also at the left for unused entries."""
        if _MASK in self.static.added_inputs:  # the graph with dynamic shapes has no mask: every token is seen
            arrays = {**arrays, _MASK: np.ones_like(arrays[_MASK])}
        return {name: self.pad_input(name, array, past) for name, array in arrays.items()}

    def pad_input(self, name: str, array: NDArray[Any], past: int) -> NDArray[Any]:
        """One input of a call at its static size.

        Args:
            array: of the tokens of the call, or a mask of all tokens so far.
            past: number of tokens in the cache.
        """
        for place, axis in enumerate(self.static.axes[name]):
            before = self.past - past if axis == self._total_axis else 0
            after = evaluate(axis, self.static.sizes) - before - array.shape[place]
            if axis == self._rows_axis:
                array = self.pad_rows(array, place)
            elif before or after:
                width = [(before, after) if other == place else (0, 0) for other in range(array.ndim)]
                array = np.pad(array, width)
        return array

    def update(self, progress: Progress, tokens: NDArray[Any], outputs: Mapping[str, Any], past: int) -> int:
        """As `GrowingCache.update`; tokens that do not fit become pending."""
        count = tokens.shape[1]
        kept = min(count, self.past - past)
        states = dict(progress.states)
        for name in self.graph.states:
            axis, present = self.cache_axis(name), outputs[present_name(name)]
            if axis is None or kept == self.new:
                states[name] = present
            elif kept:
                states[name] = self.graph.value(name, self.slide(states[name].numpy(), present.numpy(), axis, kept))
        progress.states = states
        progress.pending_tokens = {self.graph.tokens: tokens[:, kept:]} if kept < count else {}
        return count - 1

    def cache_axis(self, name: str) -> int | None:
        """Which axis of a state has the P entries; None for a recurrent state."""
        axes = self.static.axes[name]
        return axes.index(self._past_axis) if self._past_axis in axes else None

    def slide(self, old: NDArray[Any], new: NDArray[Any], axis: int, count: int) -> NDArray[Any]:
        """A state after the first `count` tokens of a call.

        Args:
            old: the state before the call.
            new: what the graph returned, with all N tokens of the call.
            axis: which axis has the P entries.
        """
        before, first = (slice(None),) * axis, self.past - self.new
        return np.concatenate([old[(*before, slice(count, None))], new[(*before, slice(first, first + count))]], axis)

    def _pending(self, progress: Progress) -> int:
        return next((value.shape[1] for value in progress.pending_tokens.values()), 0)
