"""Compare two graphs of one decoder while they generate, each with its own cache, both given the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.specs import CaseCheck
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    from onnxport.runtime.decoder import Decoder


@dataclass(frozen=True)
class Generation:
    """What two decoders generate from a random prompt.

    Attributes:
        rows: rows after the first are padded on the left.
        length: tokens of the prompt.
        chunk: of them in a call.
        steps: tokens that are written.
    """

    rows: int
    length: int
    chunk: int
    steps: int = 32

    @property
    def name(self) -> str:
        return f"{self.steps} greedy tokens, {self.rows} rows, prompt of {self.length} in parts of {self.chunk}"


def compare_generation(
    decoders: tuple[Decoder, Decoder],
    generation: Generation,
    vocabulary: int,
    tolerance: tuple[float, float],
    *,
    fixed: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> CaseCheck:
    """Give the first decoder's greedy tokens to both, and compare all logits.

    Args:
        vocabulary: number of tokens.
        tolerance: (absolute, relative to the largest logit).
        fixed: what an encoder gave to each.
    """
    rows, length, chunk, steps = generation.rows, generation.length, generation.chunk, generation.steps
    progress = [decoder.start(rows, given) for decoder, given in zip(decoders, fixed, strict=True)]
    mask = left_padded(rows, length)
    ids = np.random.default_rng(rows).integers(0, vocabulary, (rows, length))
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
            return CaseCheck(generation.name, sizes, (), error=first_line(error), ok=False)
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
            return CaseCheck(generation.name, sizes, (), error=f"token {made} is off by {difference:.3g}", ok=False)
    return CaseCheck(generation.name, sizes, (), "token", equal / (rows * steps), None, True)


def left_padded(rows: int, total: int) -> np.ndarray:
    """A mask, (rows, total) int64, with padding on the left; that of the last row leaves only its last token."""
    mask = np.ones((rows, total), np.int64)
    for row in range(1, rows):
        mask[row, : min(total * row // (rows - 1), total - 1)] = 0
    return mask
