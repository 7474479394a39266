"""A graph of a folder that runs on rows: rows of equal length share a batch, and what was padded is cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import Row, pad_row
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.tasks.model_config import ModelConfig, read_model_config
from onnxport.specs import TensorSpec

# Inputs that preprocessing may leave out: ones or zeros of the shape of another input.
_ONES = {"attention_mask": ("input_ids", "input_values"), "pixel_mask": ("pixel_values",),
         "pixel_attention_mask": ("pixel_values",)}  # fmt: skip
_ZEROS = {"token_type_ids": ("input_ids",), "bbox": ("input_ids",)}


@dataclass(frozen=True)
class Padding:
    """How rows of different lengths become a batch.

    Attributes:
        values: array -> the value of its padding; only these arrays are padded, on their last axis.
        side: "left" or "right".
    """

    values: Mapping[str, int] = field(default_factory=dict)
    side: str = "right"


_NONE = Padding()


class TaskModel:
    """A graph with its folder and its config.

    Args:
        folder: the folder.
        component: name of the graph.
        threads: threads of one operator; None: as many as the process may use processors.

    Raises:
        FolderError: no such component, or its graph cannot be loaded.
    """

    def __init__(self, folder: Folder, component: str = "model", threads: int | None = None) -> None:
        self.folder = folder
        self.config: ModelConfig = read_model_config(folder.path)
        self.session = OnnxSession(folder, component, threads)
        self.inputs = {spec.name: spec for spec in self.session.inputs}

    def run(self, rows: Sequence[Row], padding: Padding = _NONE, batch_size: int = 1) -> list[Row]:
        """The outputs of each row, without the axis of the batch and without padding.

        Args:
            rows: arrays by the names of the graph's inputs, without the axis of the batch. Other arrays are ignored;
                a mask that is missing is ones, and token types and boxes that are missing are zeros.
            padding: how rows of different lengths are put together.
            batch_size: most rows in one call of the graph. Rows of similar length share a call.

        Raises:
            UsageError: an input is missing, or of a type or size that the graph cannot take.
        """
        found: list[Row] = [{} for _ in rows]
        needed = [{name: array for name, array in row.items() if name in self.inputs} for row in rows]
        values = padding.values if self._may_pad(padding) else {}
        for batch in _batches(needed, set(values), self._limit(batch_size)):
            lengths = [_length(needed[number], set(values)) for number in batch]
            padded = [pad_row(needed[number], values, max(lengths), padding.side) for number in batch]
            feed = {name: np.stack([row[name] for row in padded]) for name in padded[0]}
            outputs = self.run_batch(feed)
            for place, (number, length) in enumerate(zip(batch, lengths, strict=True)):
                found[number] = {
                    name: self._without_padding(name, value[place], length, padding.side) if values else value[place]
                    for name, value in outputs.items()
                }
        return found

    def run_batch(self, arrays: Mapping[str, NDArray[Any]]) -> Row:
        """The outputs for arrays that have the axis of the batch; as `run` for what is missing or ignored.

        Raises:
            UsageError: an input is missing, or of a type or size that the graph cannot take.
        """
        feed = {name: array for name, array in arrays.items() if name in self.inputs}
        return self.session.run(feed | self._defaults(feed))

    def _may_pad(self, padding: Padding) -> bool:
        """Whether rows of different lengths can share a batch: padding has a value, and a mask hides it."""
        ids = [name for name in self.inputs if name == "input_ids"]
        return all(name in padding.values for name in ids) and "attention_mask" in self.inputs

    def _limit(self, batch_size: int) -> int:
        """The largest batch that the graph takes."""
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, it must be at least 1.", hint="batch_size=8")
        static = self.session.static_axes
        if static is not None:
            return batch_size
        sizes = [spec.axes[0] for spec in self.inputs.values() if spec.axes and isinstance(spec.axes[0], int)]
        return min([batch_size, *(size for size in sizes if isinstance(size, int))])

    def _defaults(self, feed: Mapping[str, NDArray[Any]]) -> Row:
        """The inputs of the graph that the rows leave out and that follow from others."""
        made = {}
        for name, spec in self.inputs.items():
            likes = (*_ONES.get(name, ()), *_ZEROS.get(name, ()))
            like = next((feed[other] for other in likes if other in feed), None)
            if name in feed or like is None:
                continue
            # A mask of pixels has no channels: (batch, channels, height, width) to (batch, height, width).
            shape = (like.shape[0], *like.shape[2:]) if name.startswith("pixel") else like.shape
            # Boxes have four numbers for each token.
            sides = [axis for axis in spec.axes[len(shape) :] if isinstance(axis, int)]
            made[name] = np.full((*shape, *sides), int(name in _ONES), np.dtype(spec.dtype))
        return made

    def _without_padding(self, name: str, value: NDArray[Any], length: int, side: str) -> NDArray[Any]:
        """An output of one row, cut to `length` along the axis of the tokens."""
        axis = self._token_axis()
        spec = next(spec for spec in self.session.outputs if spec.name == name)
        for place, own in enumerate(spec.axes[1:]):
            if axis is not None and own == axis and place < value.ndim and value.shape[place] > length:
                kept = slice(value.shape[place] - length, None) if side == "left" else slice(length)
                value = value[(slice(None),) * place + (kept,)]
        return value

    def _token_axis(self) -> int | str | None:
        """The name of the axis that is padded."""
        spec: TensorSpec | None = self.inputs.get("input_ids")
        return spec.axes[-1] if spec is not None and spec.axes and isinstance(spec.axes[-1], str) else None


def _length(row: Row, padded: set[str]) -> int:
    """Tokens of a row; 0 if nothing in it is padded."""
    return max((array.shape[-1] for name, array in row.items() if name in padded), default=0)


def _batches(rows: Sequence[Row], padded: set[str], size: int) -> list[list[int]]:
    """The numbers of the rows that run together: of the same shapes, and sorted by length where that is padded."""
    shapes: dict[tuple[Any, ...], list[int]] = {}
    for number, row in enumerate(rows):
        key = tuple((name, array.shape[:-1] if name in padded else array.shape) for name, array in sorted(row.items()))
        shapes.setdefault(key, []).append(number)
    batches = []
    for numbers in shapes.values():
        ordered = sorted(numbers, key=lambda number: _length(rows[number], padded))
        batches += [ordered[first : first + size] for first in range(0, len(ordered), size)]
    return batches
