"""The cache of a fused decoder: packed rows, in buffers that are both past and present.

A fused graph says in its metadata that it is one. Its cache is not that of the portable graph: each
row's real tokens lie at its beginning, in the order they came, and what lies behind them means
nothing. How many there are the graph reads from `attention_mask`. The operator writes new tokens
behind the old ones in place, so a step copies no cache.

numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.tensor_names import is_past

# Keys of a graph's metadata; of the first also the value.
CACHE_KEY, PACKED = "onnxport.cache", "packed rows"
LONGEST_KEY = "onnxport.longest"
WINDOW_KEY = "onnxport.window"

_LEAST_COLUMNS = 256
_COLUMNS = 2  # the axis of (rows, heads, columns, features)

Arrays = Mapping[str, NDArray[Any]]


class PackedRows:
    """What a fused graph takes.

    Attributes:
        longest: most columns of its mask, or None.
        windowed: a layer sees only the last tokens.
    """

    def __init__(self, longest: int | None, *, windowed: bool) -> None:
        self.longest, self.windowed = longest, windowed

    def check(self, mask: NDArray[np.int64]) -> None:
        """Refuse what the portable graph can do and this one cannot.

        Raises:
            UsageError: more columns than the graph takes, or padding between tokens and a sliding window,
                which counts padding in one graph and not in the other.
        """
        if self.longest is not None and mask.shape[1] > self.longest:
            raise UsageError(
                f"The text has {mask.shape[1]} tokens with padding, this graph takes at most {self.longest}.",
                hint='Use the component "model".',
            )
        if self.windowed and (np.diff(mask, axis=1) < 0).any():
            raise UsageError(
                "attention_mask has padding behind a token, and this graph has a sliding window.",
                hint='Pad on the left, or use the component "model".',
            )


def packed_rows(session: OnnxSession) -> PackedRows | None:
    """What the graph's metadata says; None for a portable graph."""
    found = session.raw.get_modelmeta().custom_metadata_map
    if found.get(CACHE_KEY) != PACKED:
        return None
    longest = found.get(LONGEST_KEY, "")
    return PackedRows(int(longest) if longest.isdigit() else None, windowed=WINDOW_KEY in found)


def with_room(states: Mapping[str, Any], columns: int, longest: int | None = None) -> dict[str, Any]:
    """Buffers with room for so many columns: those that there are, or copies that are twice as long.

    Args:
        states: OrtValues, (rows, heads, columns, features) each.
        columns: those that there will be after the call.
        longest: most columns that are ever needed, or None.
    """
    import onnxruntime

    found = {}
    for name, value in states.items():
        shape = list(value.shape())
        held = shape[_COLUMNS]
        if held < columns:
            wanted = max(_LEAST_COLUMNS, 2 * held)
            while wanted < columns:
                wanted *= 2
            shape[_COLUMNS] = max(columns, min(wanted, longest or wanted))
            old = value.numpy()
            new = np.zeros(shape, old.dtype)
            new[:, :, :held] = old
            value = onnxruntime.OrtValue.ortvalue_from_numpy(new)
        found[name] = value
    return found


def run_packed(run: Callable[[dict[str, Any]], dict[str, Any]], inputs: Arrays) -> dict[str, Any]:
    """Run a fused graph on a portable graph's inputs, and give what that graph would.

    Args:
        run: runs the fused graph.
        inputs: with `attention_mask`; a past has padding where the mask says so.

    Returns:
        The outputs; caches with their tokens where the mask has them, and zeros where it has padding.
    """
    mask = inputs["attention_mask"]
    past = mask.shape[1] - inputs["input_ids"].shape[1]
    order = np.argsort(mask[:, :past] == 0, axis=1, kind="stable")
    given = {name: _taken(value, order) if is_past(name) else value for name, value in inputs.items()}
    found = run(given)
    place = np.maximum(mask.cumsum(1) - 1, 0)
    return real_only({n: _taken(v, place) if n.startswith("present") else v for n, v in found.items()}, mask)


def real_only(outputs: Arrays, mask: NDArray[np.int64]) -> dict[str, Any]:
    """Outputs with zeros where the mask has padding, so that only what means something is compared."""
    found = {}
    for name, value in outputs.items():
        if name.startswith("present"):
            found[name] = np.where(mask[:, None, :, None] == 1, value, np.zeros_like(value))
        else:
            real = mask[:, mask.shape[1] - value.shape[1] :]
            found[name] = np.where(real[:, :, None] == 1, value, np.zeros_like(value))
    return found


def _taken(value: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """Columns of each row in another order."""
    return np.ascontiguousarray(np.take_along_axis(value, order[:, None, :, None], _COLUMNS))
