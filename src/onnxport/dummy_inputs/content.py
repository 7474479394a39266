"""Inputs with unusual content: special tokens, every token, padding on the left, positions far out, black and white."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxport.dummy_inputs.base import Arrays, InputGenerator, Sizes
from onnxport.dummy_inputs.text import TextInputGenerator, special_tokens, vocabulary_of
from onnxport.tensor_names import is_past

_MOST_TOKENS = 2**12  # a larger vocabulary is not run through: the weights are compared one by one elsewhere
_ROW = 48  # tokens
_SEED = 23
_NORMALIZED = 16  # larger numbers are no normalized image or sound
_BEYOND = 4
IDS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"


def special_contents(generator: InputGenerator, base: Sizes, rows: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
    """(name, inputs) of what the usual inputs do not hold, as far as the model has such inputs.

    Args:
        generator: makes the usual inputs.
        base: sizes of its dimensions.
        rows: those that are numbers of rows.
    """
    three = generator.make(base | dict.fromkeys(rows, 3), seed=_SEED)
    text = _text_of(generator)
    if text is not None and IDS in three:
        yield from _tokens(generator, text, three, base, rows)
    if generator.can_pad:
        padded = generator.make(base | dict.fromkeys(rows, 3), seed=_SEED, padded=True)
        if (left := _padded_on_the_left(padded)) is not None:
            yield "padded rows, on the left", left


def extremes(generator: InputGenerator, base: Sizes, rows: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
    """(name, inputs) with a float input at the ends of its range: all lowest, all highest, all zero, all tiny.

    For an image that is black, white and grey; for a sound silence and clipping.
    """
    four = generator.make(base | dict.fromkeys(rows, 4), seed=_SEED)
    for name, value in four.items():
        if value.dtype.kind == "f" and not is_past(name) and value.ndim > 1 and len(value) == 4:
            changed = np.zeros_like(value)
            changed[0], changed[1], changed[3] = value.min(), value.max(), value[3] * value.dtype.type(1e-4)
            yield f"extremes of {name}", {**four, name: changed}


def far_contents(generator: InputGenerator, base: Sizes, rows: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
    """(name, inputs) that hardly any user gives, to find limits of a graph: numbers and tokens at the ends of ranges.

    The outputs mean nothing, so they are no measure of what quantization loses.
    """
    four = generator.make(base | dict.fromkeys(rows, 4), seed=_SEED)
    for name, value in four.items():
        is_values = value.dtype.kind == "f" and not is_past(name) and value.ndim > 1 and len(value) == 4
        if is_values and np.abs(value).max() < _NORMALIZED:
            yield f"{name} beyond its usual range", {**four, name: value * value.dtype.type(_BEYOND)}
    text = _text_of(generator)
    vocabulary = vocabulary_of(text.config) if text is not None else 0
    if IDS in four and vocabulary > _MOST_TOKENS:
        ends = np.resize(_ends(vocabulary), four[IDS].shape).astype(four[IDS].dtype)
        yield "tokens at the ends of the table", {**four, IDS: ends}


def shifted_positions(arrays: Arrays, last: int) -> Arrays | None:
    """The same inputs at later positions, so that the last of them is `last`; None where positions are no input."""
    positions = arrays.get(POSITIONS)
    if positions is None or positions.size == 0:
        return None
    return {**arrays, POSITIONS: positions + (last - int(positions.max()))}


def _tokens(
    generator: InputGenerator, text: TextInputGenerator, three: Arrays, base: Sizes, rows: Sequence[str]
) -> Iterator[tuple[str, Arrays]]:
    rng = np.random.default_rng(_SEED)
    vocabulary = vocabulary_of(text.config)
    ids = three[IDS]
    if text.tokenizer is not None:
        special = [token for token in special_tokens(text.tokenizer).tolist() if token < vocabulary]
        if special:
            chosen = rng.random(ids.shape) < 1 / 3
            yield "special tokens", {**three, IDS: np.where(chosen, rng.choice(special, ids.shape), ids)}
    if vocabulary <= _MOST_TOKENS and len(rows) == 1 and "sequence_length" in base:
        limit = next((dim.maximum for dim in generator.dims if dim.name == "sequence_length"), None)
        length = min(_ROW, limit or _ROW)
        every = generator.make(
            base | {rows[0]: -(-vocabulary // length), "sequence_length": length}, seed=_SEED
        )  # fmt: skip
        if every[IDS].ndim == 2 and every[IDS].size >= vocabulary:
            yield "every token", {**every, IDS: np.resize(np.arange(vocabulary), every[IDS].shape)}


def _ends(vocabulary: int) -> np.ndarray:
    """The last tokens of a table, those around powers of two, where narrow integers end, and the first."""
    powers = [2**bits + offset for bits in (16, 15, 12, 8, 7) for offset in (0, -1)]
    known = [vocabulary - 1, vocabulary - 2, vocabulary - 3, *powers, 0, 1]
    return np.array([token for token in dict.fromkeys(known) if 0 <= token < vocabulary])


def _padded_on_the_left(arrays: Arrays) -> Arrays | None:
    """Rows moved to the right, so that their padding comes first; None where it does so already."""
    mask = arrays.get(MASK)
    if mask is None or mask.ndim != 2 or (mask[:, -1] == 1).all():
        return None
    empty = (mask == 0).sum(1)
    return {
        name: np.stack([np.roll(row, count, 0) for row, count in zip(value, empty, strict=True)])
        if value.shape[:2] == mask.shape
        else value
        for name, value in arrays.items()
    }


def _text_of(generator: Any) -> TextInputGenerator | None:
    """What makes the tokens of a generator."""
    while generator is not None and not isinstance(generator, TextInputGenerator):
        generator = next(
            (getattr(generator, name) for name in ("generator", "text", "inputs") if hasattr(generator, name)), None
        )
    return generator
