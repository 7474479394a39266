"""Two graphs of one decoder write the same text: each with its own cache, both led along one's greedy tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.specs import CaseCheck
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    from onnxport.runtime.decoder import Decoder

_STEPS = 32


def compare_generation(
    decoders: tuple[Decoder, Decoder],
    rows: int,
    length: int,
    chunk: int,
    vocabulary: int,
    tolerance: tuple[float, float],
    *,
    steps: int = _STEPS,
    fixed: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> CaseCheck:
    """The first decoder's greedy tokens given to both; all logits must agree.

    Args:
        rows: rows after the first are padded on the left.
        length: tokens of the prompt.
        chunk: of them in a call.
        vocabulary: number of tokens.
        tolerance: (absolute, relative to the largest logit).
        steps: tokens that are written.
        fixed: what an encoder gave to each.
    """
    progress = [decoder.start(rows, given) for decoder, given in zip(decoders, fixed, strict=True)]
    mask = left_padded(rows, length)
    ids = np.random.default_rng(rows).integers(0, vocabulary, (rows, length))
    name = f"{steps} greedy tokens, {rows} rows, prompt of {length} in parts of {chunk}"
    sizes = {"batch_size": rows, "prompt": length, "tokens": steps}
    equal, made, start = 0, 0, 0
    while made < steps:
        now = slice(start, start + chunk)
        try:
            wanted, found = (
                decoder.step(state, ids[:, now], mask[:, now])
                for decoder, state in zip(decoders, progress, strict=True)
            )
        except Exception as error:  # whatever the run time says is the finding
            return CaseCheck(name, sizes, (), error=first_line(error), ok=False)
        start += chunk
        if start < length:
            continue  # a row may have no token yet
        chunk = 1
        ids = np.concatenate([ids[:, :start], wanted.argmax(-1)[:, None]], 1)
        start, mask = ids.shape[1] - 1, np.concatenate([mask, np.ones((rows, 1), np.int64)], 1)
        made += 1
        equal += int((wanted.argmax(-1) == found.argmax(-1)).sum())
        difference = float(np.abs(wanted - found).max())
        if not difference <= tolerance[0] + tolerance[1] * float(np.abs(wanted).max()):
            return CaseCheck(name, sizes, (), error=f"token {made} is off by {difference:.3g}", ok=False)
    return CaseCheck(name, sizes, (), "token", equal / (rows * steps), None, True)


def left_padded(rows: int, total: int) -> np.ndarray:
    """A mask, (rows, total) int64, with padding on the left; that of the last row leaves only its last token."""
    mask = np.ones((rows, total), np.int64)
    for row in range(1, rows):
        mask[row, : min(total * row // (rows - 1), total - 1)] = 0
    return mask
