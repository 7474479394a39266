"""The cache of a fused decoder: packed rows, in buffers that are both past and present.

A fused graph says in its metadata that it is one. Its cache is not that of the portable graph: each
row's real tokens lie at its beginning, in the order they came, and what lies behind them means
nothing. How many there are the graph reads from `attention_mask`. The operator writes new tokens
behind the old ones in place, so a step copies no cache.

numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.manifest import TensorSpec
from onnxport.errors import UsageError
from onnxport.runtime.session import OnnxSession

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


class SharedCache:
    """Buffers for the states of one generation; they grow by doubling.

    Args:
        specs: the states, (rows, heads, columns, features) each.
        rows: how many texts.
        longest: most columns that are ever needed, or None.
    """

    def __init__(self, specs: Sequence[TensorSpec], rows: int, longest: int | None = None) -> None:
        self._longest = longest
        self.columns = 0
        self._arrays = {
            spec.name: np.zeros([rows, *(0 if isinstance(size, str) else size for size in spec.axes[1:])], spec.dtype)
            for spec in specs
        }
        self._values: dict[str, Any] = {}

    def bind(self, binding: Any, columns: int, present: Callable[[str], str]) -> None:
        """Bind every state as past and as present.

        Args:
            binding: of the session.
            columns: those that there will be after the call.
            present: name of the output for the name of a past.
        """
        self._reserve(columns)
        for name, value in self._values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(present(name), value)

    def _reserve(self, columns: int) -> None:
        import onnxruntime

        if columns <= self.columns:
            return
        wanted = max(_LEAST_COLUMNS, 2 * self.columns)
        while wanted < columns:
            wanted *= 2
        wanted = max(columns, min(wanted, self._longest or wanted))
        for name, old in self._arrays.items():
            shape = list(old.shape)
            shape[_COLUMNS] = wanted
            new = np.zeros(shape, old.dtype)
            new[:, :, : self.columns] = old[:, :, : self.columns]
            self._arrays[name] = new
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(new)
        self.columns = wanted


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
    given = {name: _taken(value, order) if name.startswith("past_") else value for name, value in inputs.items()}
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
