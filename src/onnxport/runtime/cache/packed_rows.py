"""The layout of a fused graph's cache: each row's real tokens first, without padding between them.

The metadata of a fused graph says that its cache is laid out like this. The real tokens of a row are at indices 0, 1,
... in their order; later entries are undefined. The graph reads from `attention_mask` how many tokens a row has.

numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

SEQUENCE_AXIS = 2  # of (rows, heads, tokens, features)

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class PackedRows:
    """The limits of a fused graph.

    Attributes:
        longest: most tokens of its mask; None for no limit.
        windowed: a layer has sliding-window attention.
    """

    longest: int | None
    windowed: bool

    def check(self, mask: NDArray[np.int64]) -> None:
        """Refuse masks that the portable graph takes and this one does not.

        Args:
            mask: (rows, tokens) of all tokens.

        Raises:
            UsageError: more tokens than the graph takes; or, with a sliding window, padding between tokens: the
                portable graph counts padding in its window and this one does not.
        """
        if self.longest is not None and mask.shape[1] > self.longest:
            raise UsageError(
                f"The text has {mask.shape[1]} tokens with padding; this graph takes at most {self.longest}.",
                hint='Use the component "model".',
            )
        if self.windowed and (np.diff(mask, axis=1) < 0).any():
            raise UsageError(
                "attention_mask has padding after a token, which this graph with a sliding window does not support.",
                hint='Pad on the left, or use the component "model".',
            )


def read_packed_rows(session: OnnxSession) -> PackedRows | None:
    """What the graph's metadata says about its cache; None for a graph that is not fused."""
    metadata = session.raw.get_modelmeta().custom_metadata_map
    if metadata.get(CACHE_KEY) != PACKED:
        return None
    longest = metadata.get(LONGEST_KEY, "")
    return PackedRows(int(longest) if longest.isdigit() else None, windowed=WINDOW_KEY in metadata)


def positions_follow_mask(inputs: Arrays) -> bool:
    """Whether each real token's position is the number of real tokens before it, which is what a fused graph computes.

    Args:
        inputs: of the portable graph, which may have `position_ids`.
    """
    positions, mask = inputs.get("position_ids"), inputs["attention_mask"]
    if positions is None:
        return True
    past = mask.shape[1] - positions.shape[-1]
    counted, padding = (mask.cumsum(1) - 1)[:, past:], mask[:, past:] == 0
    return bool(((positions == counted) | padding).all())


def run_packed(run: Callable[[dict[str, Any]], dict[str, Any]], inputs: Arrays) -> dict[str, Any]:
    """Run a fused graph on the inputs of the portable graph, and return the outputs of the portable graph.

    Args:
        run: runs the fused graph.
        inputs: with `attention_mask`; the past has padding where the mask is 0.

    Returns:
        The outputs; the cache has its tokens where the mask is 1, and zeros where it is 0.
    """
    mask = inputs["attention_mask"]
    past = mask.shape[1] - inputs["input_ids"].shape[1]
    order = np.argsort(mask[:, :past] == 0, axis=1, kind="stable")
    given = {name: _reordered(value, order) if is_past(name) else value for name, value in inputs.items()}
    found = run(given)
    indices = np.maximum(mask.cumsum(1) - 1, 0)
    return zero_padding({n: _reordered(v, indices) if n.startswith("present") else v for n, v in found.items()}, mask)


def zero_padding(outputs: Arrays, mask: NDArray[np.int64]) -> dict[str, Any]:
    """Outputs with zeros where the mask is 0, so that only values of real tokens are compared."""
    found = {}
    for name, value in outputs.items():
        if name.startswith("present"):
            found[name] = np.where(mask[:, None, :, None] == 1, value, np.zeros_like(value))
        else:
            real = mask[:, mask.shape[1] - value.shape[1] :]
            found[name] = np.where(real[:, :, None] == 1, value, np.zeros_like(value))
    return found


def _reordered(value: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """The tokens of each row in the order (rows, tokens)."""
    return np.ascontiguousarray(np.take_along_axis(value, order[:, None, :, None], SEQUENCE_AXIS))
