"""Find out by evaluation what a mask of an encoder hides: nothing, padding, or something else.

Each library, and each version of it, builds the same mask from other operators. So it is evaluated at several sizes and
compared with the definition. A mask that hides something else is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.evaluation import Evaluator, numeric_sources

if TYPE_CHECKING:
    import onnx_ir as ir

# A masked score gets the lowest number of its type added; some models add -10000.
_HIDDEN_BELOW = -9e3
_SIZES = ((1, 1), (1, 2), (2, 9), (3, 17), (4, 70))
_LONGEST = 2050  # tokens: a mask of this length in both directions takes 16 MiB
_LONG = 32
_STATIC_SAMPLES = 4  # of the input that marks padding, where its sizes are fixed
_LARGEST = 2**22  # elements of a constant: what needs larger ones is no mask, but computed from a model's weights


class Hides(Enum):
    """What a mask hides."""

    NOTHING = "nothing"
    PADDING = "padding"
    OTHER = "other"


class MaskReader:
    """Tells what the masks of one graph hide; a mask that layers share is examined once.

    Args:
        model: the graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._evaluator = Evaluator(model)
        self._known: dict[int, tuple[Hides, ir.Value | None]] = {}

    def read(self, mask: ir.Value) -> tuple[Hides, ir.Value | None]:
        """What the mask hides, and the input (rows, tokens) that says where padding is, for `Hides.PADDING`.

        Args:
            mask: bool, or added to the scores; broadcast to (rows, heads, tokens, tokens).
        """
        if id(mask) not in self._known:
            self._known[id(mask)] = self._read(mask)
        return self._known[id(mask)]

    def is_row_of_padding(self, condition: ir.Value, padding: ir.Value | None) -> bool:
        """Whether `condition`, broadcast to (rows, heads, tokens, 1), is true just for rows that are padding alone.

        Args:
            padding: the input that says where padding is; None: the condition must never be true.
        """
        names = {str(padding.name)} if padding is not None else set()
        if numeric_sources(condition) - names:
            return False
        found = [(values, given) for values, given in self._evaluated(condition, padding)]
        for values, given in found:
            rows = np.zeros(1, bool) if given is None else np.logical_not(given.astype(bool).any(axis=1))
            shown = values.astype(bool).reshape(len(values), -1) if values.ndim else values.astype(bool).reshape(1, 1)
            if len(shown) not in (1, rows.size) and rows.size != 1:
                return False
            if not (shown == np.asarray(rows).reshape(-1, 1)).all():
                return False
        return bool(found)

    def padding_behind(self, conditions: Sequence[ir.Value]) -> ir.Value | None:
        """The input that says where padding is, if each condition is true just for rows that are padding alone."""
        sources = {name for condition in conditions for name in numeric_sources(condition)}
        given = [value for value in self._model.graph.inputs if value.name in sources]
        if len(given) != 1 or not _is_padding_input(given[0]):
            return None
        return given[0] if all(self.is_row_of_padding(condition, given[0]) for condition in conditions) else None

    def _read(self, mask: ir.Value) -> tuple[Hides, ir.Value | None]:
        sources = numeric_sources(mask)
        inputs = {str(value.name): value for value in self._model.graph.inputs}
        padding = next((inputs[name] for name in sources), None)
        if len(sources) > 1 or (padding is not None and not _is_padding_input(padding)):
            return Hides.OTHER, None
        results = list(self._evaluated(mask, padding))
        if not results or any(not self._fits(values, given) for values, given in results):
            return Hides.OTHER, None
        return (Hides.PADDING, padding) if padding is not None else (Hides.NOTHING, None)

    @staticmethod
    def _fits(values: np.ndarray, given: np.ndarray | None) -> bool:
        visible = values if values.dtype == bool else values == 0
        if values.dtype != bool and not (visible | (values < _HIDDEN_BELOW)).all():
            return False
        if given is None:
            return bool(visible.all())
        rows, tokens = given.shape
        if visible.ndim != 4 or visible.shape[1] != 1 or visible.shape[2] not in (1, tokens):
            return False
        if visible.shape[0] not in (1, rows) or visible.shape[3] not in (1, tokens):
            return False
        return bool((np.broadcast_to(visible, (rows, 1, tokens, tokens)) == given.astype(bool)[:, None, None]).all())

    def _evaluated(self, value: ir.Value, padding: ir.Value | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The value at several sizes, with what the input that marks padding was; nothing where it cannot be told."""
        numbers = _numbers_behind(value)
        if numbers is None:
            return
        longest = max((number for number in numbers if abs(number) < 2**31), default=0) + 2
        axes = {str(size.value) for given in self._model.graph.inputs for size in given.shape or ()
                if not isinstance(size, int)}  # fmt: skip
        if longest > _LONGEST:
            return
        counted = _token_axes(self._model.graph.inputs)
        sizes = [*_SIZES, (2, longest)] if longest > _LONG else _SIZES
        if not axes:
            sizes = [_SIZES[0]] * _STATIC_SAMPLES
        for number, (rows, tokens) in enumerate(sizes):
            arrays = {str(given.name): _array(given, rows, tokens, counted) for given in self._model.graph.inputs}
            given = None
            if padding is not None:
                shape = arrays[str(padding.name)].shape
                given = (np.random.default_rng(number).random(shape) > 0.3).astype(np.int64)
                if len(given) > 1 or not number:
                    given[0] = 1
                if len(given) > 2:
                    given[1] = 0
                arrays[str(padding.name)] = given.astype(arrays[str(padding.name)].dtype)
            try:
                yield self._evaluator.run(value, arrays), given
            except Exception:  # a size that the graph refuses tells nothing
                continue


def _is_padding_input(value: ir.Value) -> bool:
    import onnx_ir as ir

    whole = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
    return value.shape is not None and len(value.shape) == 2 and value.dtype in whole


def _array(value: ir.Value, rows: int, tokens: int, counted: Collection[str]) -> np.ndarray:
    """Ones: (rows, tokens) for what counts tokens; for images and sounds a multiple of the size of usual patches.

    Args:
        counted: names of axes that count tokens.
    """
    assert value.shape is not None and value.dtype is not None
    shape = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            shape.append(size)
        elif axis == 0:
            shape.append(rows)
        else:
            shape.append(tokens if size.value in counted else 64 * (1 + tokens % 3))
    return np.ones(shape, value.dtype.numpy())


def _token_axes(inputs: Sequence[ir.Value]) -> set[str]:
    """Names of the second axes of inputs (rows, tokens) of whole numbers."""
    found = set()
    for value in inputs:
        if value.shape is not None and len(value.shape) == 2 and value.dtype is not None:
            size = value.shape[1]
            if not value.dtype.is_floating_point() and not isinstance(size, int) and size.value is not None:
                found.add(size.value)
    return found


def _numbers_behind(value: ir.Value) -> set[int] | None:
    """Whole numbers that a computation names: windows, lengths; None for one that needs large constants."""
    found: set[int] = set()
    seen: set[int] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        tensor = one.const_value
        node = one.producer()
        if tensor is None and node is not None and node.op_type == "Constant" and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
        if tensor is not None:
            if tensor.size > _LARGEST:
                return None
            if tensor.size <= 4:
                found.update(int(abs(x)) for x in tensor.numpy().reshape(-1).tolist() if abs(x) < 2**31)
        elif node is not None:
            pending.extend(given for given in node.inputs if given is not None)
    return found
