"""The cache of a decoder of fixed sizes: a window of P places, and N tokens a call.

The text stands at the right end of the window; unused places are on its left, and the mask hides them. A call puts
N tokens behind the window; what the graph gives back are the last P places of both. Where a call has fewer tokens,
they come first and the mask hides the rest, of which nothing is kept. So all that a text has ever held are its own
tokens in their order, as in a graph that takes any size.

When the window is full, the next tokens are given again with those after them, as long as a call has room: P + N
tokens in view is all that such a graph can do, and more is refused.

numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.axes import evaluate
from onnxport.errors import UsageError
from onnxport.runtime.static_axes import FixedAxes

_MASK = "attention_mask"


class Window:
    """Places of a decoder's cache.

    Args:
        fixed: the graph's axes.
        tokens: the input that has the tokens of a call, (rows, tokens).

    Attributes:
        rows: of every call.
        past: places of the window, P.
        new: tokens of a call, N.
        longest: most tokens in view.
        tokens: the axis of the tokens of a call.
    """

    def __init__(self, fixed: FixedAxes, tokens: str) -> None:
        self.fixed = fixed
        assert fixed.window is not None
        rows, places = fixed.axes[tokens][:2]
        # A number of rows that the model fixes itself has no name.
        self._rows, self.tokens, self._window = rows if isinstance(rows, str) else "", places, fixed.window
        self.rows, self.past, self.new = (evaluate(axis, fixed.sizes) for axis in (rows, fixed.window, places))
        self.longest = self.past + self.new
        self._whole = fixed.axes[_MASK][1]

    def seen(self, mask: NDArray[np.int64]) -> NDArray[np.int64]:
        """The mask of tokens as the graph gets it: all are seen where the graph that takes any size has no mask."""
        return np.ones_like(mask) if _MASK in self.fixed.added else mask

    def place(self, name: str) -> int | None:
        """Which axis of a state is the window; None for a state that is none."""
        axes = self.fixed.axes[name]
        return axes.index(self._window) if self._window in axes else None

    def check_rows(self, rows: int) -> None:
        """Raises UsageError: more rows than the graph has."""
        if rows > self.rows:
            raise UsageError(
                f"There are {rows} rows (texts, beams, answers), and {self.fixed.file} is fixed at {self.rows}.",
                hint=f"Give fewer at a time, use the component {self.fixed.graph!r}, or "
                f"`{self.fixed.command(**{self._rows: rows})}`.",
            )

    def check_length(self, length: int) -> None:
        """Raises UsageError: the text, with padding, has more tokens than can be in view."""
        if length > self.longest:
            longer = self.fixed.command(**{self._window: length - self.new})
            raise UsageError(
                f"The text has {length} tokens with padding, and {self.fixed.file} sees {self.longest} at most "
                f"({self._window} {self.past} and {self.new} of a call); it would forget the first ones.",
                hint=f"Give a shorter prompt or a smaller max_new_tokens, use the component {self.fixed.graph!r}, or "
                f"`{longer}`.",
            )

    def parts(self, length: int, again: int) -> Iterator[slice]:
        """Tokens of each call, the smallest part first, so that the window is used up to its last place.

        Args:
            length: of what is given now.
            again: tokens that are given once more before them.
        """
        end = (length + again) % self.new or self.new
        end -= again
        yield slice(0, end)
        for start in range(end, length, self.new):
            yield slice(start, start + self.new)

    def arranged(self, name: str, array: NDArray[Any], held: int) -> NDArray[Any]:
        """An input of a call at its fixed size.

        Args:
            array: tokens of this call, or, of a mask, of all up to these.
            held: tokens that the window has.
        """
        for place, axis in enumerate(self.fixed.axes[name]):
            before = self.past - held if axis == self._whole else 0
            wanted = evaluate(axis, self.fixed.sizes)
            after = wanted - before - array.shape[place]
            if axis == self._rows:
                array = self.with_rows(array, place)
            elif before or after:
                width = [(before, after) if other == place else (0, 0) for other in range(array.ndim)]
                array = np.pad(array, width)
        return array

    def with_rows(self, array: NDArray[Any], place: int = 0) -> NDArray[Any]:
        """Filled up with the first row again: rows of nothing may have no numbers."""
        missing = self.rows - array.shape[place]
        if not missing:
            return array
        return np.concatenate([array, *[np.take(array, [0], place)] * missing], place)

    def moved(self, old: NDArray[Any], new: NDArray[Any], place: int, count: int) -> NDArray[Any]:
        """The window with the first `count` tokens of a call more.

        Args:
            old: the window as it was given.
            new: what the graph gave back, with all N tokens of the call.
        """
        before, first = (slice(None),) * place, self.past - self.new
        return np.concatenate([old[(*before, slice(count, None))], new[(*before, slice(first, first + count))]], place)


def joined(first: Mapping[str, NDArray[Any]], then: NDArray[Any], name: str) -> NDArray[Any]:
    """What is given again of an input, and what is new of it, along its tokens (axis 1)."""
    return np.concatenate([first[name], then], 1) if name in first else then
