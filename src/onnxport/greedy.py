"""A decoder checked as it is used: greedy tokens of the source against those of the graph.

The source generates with transformers' own `generate` and its own cache; the graph takes the prompt
in chunks and then token by token, each time over the states that it returned itself. So a state that
is wrong in a way that one call does not show, shows here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxport.artifact.manifest import CaseCheck, TensorSpec
from onnxport.runtime.decoder import present_name
from onnxport.samples.base import Arrays

if TYPE_CHECKING:
    from onnxport.samples.decoder import DecoderSampler
    from onnxport.sources.decoder import DecoderSource

_TOKENS = 32
# Each token reads all weights, from the disk where memory is short.
_FEW_TOKENS = 8
_MANY_BYTES = 2**32
# (name, rows, tokens of the longest prompt, tokens a call of the graph)
_RUNS = (("one row, prompt at once", 1, 9, 9), ("padded rows, prompt in chunks", 3, 11, 4))


@dataclass(frozen=True)
class GreedyCase:
    """A prompt and what the source made of it.

    Attributes:
        name: for the record.
        chunk: tokens of the prompt that the graph gets in one call.
        input_ids, attention_mask: the prompt, (rows, tokens); padded on the left.
        tokens: what the source generated, (rows, steps).
        margins: by how much the best token led the second, (rows, steps).
        scale: largest |logit|.
    """

    name: str
    chunk: int
    input_ids: np.ndarray
    attention_mask: np.ndarray
    tokens: np.ndarray
    margins: np.ndarray
    scale: float


def record_greedy(source: DecoderSource, sampler: DecoderSampler) -> list[GreedyCase]:
    """Let the source generate."""
    steps = _TOKENS if source.weight_bytes < _MANY_BYTES else _FEW_TOKENS
    cases = []
    for name, rows, length, chunk in _RUNS:
        ids, mask = sampler.prompt(rows, length)
        tokens, margins, scale = source.generate(ids, mask, steps)
        cases.append(GreedyCase(f"{steps} greedy tokens, {name}", chunk, ids, mask, tokens, margins, scale))
    return cases


def check_greedy(
    run: Callable[[Arrays], Arrays],
    case: GreedyCase,
    inputs: Sequence[TensorSpec],
    tolerance: tuple[float, float],
) -> CaseCheck:
    """Generate with the graph.

    Tokens may part only where the source's two best logits are closer than the graph may be off
    (twice the tolerance, one for each); a row is compared up to there.

    Args:
        run: the graph.
        inputs: all that it takes.
        tolerance: (absolute, relative) of the graph's precision.
    """
    rows, steps = case.tokens.shape
    sizes = {"batch_size": rows, "prompt": case.input_ids.shape[1], "tokens": steps}
    try:
        found = _generate(run, case, inputs)
    except Exception as error:  # whatever the run time says is the finding
        message = str(error).strip().splitlines()
        return CaseCheck(case.name, sizes, (), error=message[0][:300] if message else type(error).__name__, ok=False)
    allowed = 2 * (tolerance[0] + tolerance[1] * case.scale)
    equal, parted = 0, None
    for row in range(rows):
        differ = np.flatnonzero(found[row] != case.tokens[row])
        same = int(differ[0]) if len(differ) else steps
        equal += same
        if same < steps and case.margins[row, same] > allowed and parted is None:
            parted = (
                f"row {row} parts at token {same + 1} of {steps}: {found[row, same]} instead of "
                f"{case.tokens[row, same]}, which leads by {case.margins[row, same]:.3g}"
            )
    return CaseCheck(case.name, sizes, (), "token", equal / (rows * steps), parted, parted is None)


def _generate(run: Callable[[Arrays], Arrays], case: GreedyCase, inputs: Sequence[TensorSpec]) -> np.ndarray:
    names = {spec.name for spec in inputs}
    rows = len(case.input_ids)
    states = {spec.name: _empty(spec, rows) for spec in inputs if spec.name.startswith("past_")}
    mask, done = case.attention_mask, 0
    tokens: list[np.ndarray] = []
    pending = case.input_ids
    while len(tokens) < case.tokens.shape[1]:
        ids, pending = pending[:, : case.chunk], pending[:, case.chunk :]
        seen = mask[:, : done + ids.shape[1]]
        positions = np.maximum(seen.cumsum(1) - 1, 0)[:, done:]
        given = {"input_ids": ids, "attention_mask": seen, "position_ids": positions}
        outputs = run({name: value for name, value in (given | states).items() if name in names})
        states = {name: outputs[present_name(name)] for name in states}
        done += ids.shape[1]
        if not pending.shape[1]:
            tokens.append(outputs["logits"][:, -1].argmax(-1))
            pending = tokens[-1][:, None]
            mask = np.concatenate([mask, np.ones((rows, 1), mask.dtype)], 1)
    return np.stack(tokens, 1)


def _empty(spec: TensorSpec, rows: int) -> np.ndarray:
    """A state before the first token: no token, or zeros."""
    shape: list[int] = [rows, *(0 if isinstance(size, str) else size for size in spec.axes[1:])]
    return np.zeros(shape, spec.dtype)
