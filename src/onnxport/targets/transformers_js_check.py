"""Graphs for transformers.js against those that they were made from: logits along greedy tokens, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxport.graph.inputs import random_inputs
from onnxport.runtime.decoder import Decoder, Progress
from onnxport.runtime.encoder import Encoder
from onnxport.runtime.session import OnnxSession
from onnxport.specs import CaseCheck, Verification
from onnxport.verification.case import Case
from onnxport.verification.compare import check_case, verification_of
from onnxport.verification.tolerance import TOLERANCES

# Rows, and tokens that a generation begins with.
_RUNS = ((1, 1), (3, 4))
_TOKENS = 16
_HIDDEN = "last_hidden_state"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class GraphFiles:
    """Files of graphs: a decoder's, and of an encoder-decoder the encoder's."""

    decoder: Path
    encoder: Path | None = None


class _Writer:
    """A pair that is loaded."""

    def __init__(self, pair: GraphFiles) -> None:
        self.decoder = Decoder(OnnxSession(pair.decoder))
        self.encoder = Encoder(OnnxSession(pair.encoder)) if pair.encoder is not None else None

    def start(self, inputs: Arrays, rows: int) -> Progress:
        return self.decoder.start(rows, self.encoder.encode(inputs) if self.encoder is not None else None)


def compare_pairs(
    old: GraphFiles, new: GraphFiles, sizes: Sequence[Mapping[str, int]], vocabulary: int, precision: str
) -> list[Verification]:
    """Let both write the old pair's greedy tokens, from random inputs, and compare logits at every step.

    Rows after the first are padded: on the right for an encoder, on the left for a decoder.

    Args:
        sizes: at which the graph that reads the inputs is known to work.
        vocabulary: number of tokens.
        precision: row of `verification.compare.TOLERANCES`. Values of 8 bits can fall to the next level where sums
            are computed in another order.

    Returns:
        For the encoder, if there is one, and for the decoder.

    Raises:
        UsageError: ONNX Runtime cannot run one of them.
    """
    tolerance = TOLERANCES[precision]
    writers = [_Writer(old), _Writer(new)]
    hidden, logits = [], []
    for number, (rows, tokens) in enumerate(_RUNS):
        axes = dict(sizes[number % len(sizes)])
        rng = np.random.default_rng([rows, tokens])
        ids = rng.integers(0, vocabulary, (rows, tokens))
        call = {
            "batch_size": rows,
            "sequence_length": tokens,
            "total_sequence_length": tokens,
            "past_sequence_length": 0,
        }
        inputs: Arrays = {}
        mask = np.ones_like(ids)
        if writers[0].encoder is not None:
            inputs = _read(writers[0].encoder, axes, rows, vocabulary, number)
            states = [writer.encoder.encode(inputs)["encoder_hidden_states"] for writer in writers if writer.encoder]
            call |= {"encoder_sequence_length": states[0].shape[1], "past_encoder_sequence_length": 0}
            hidden.append(_check(f"hidden states, {_rows(rows)}", axes, _HIDDEN, states, tolerance))
        else:
            mask[1:, : tokens // 2] = 0
        found = _greedy(writers, [writer.start(inputs, rows) for writer in writers], ids, mask)
        name = f"logits of {tokens} tokens and {_TOKENS} greedy tokens, {_rows(rows)}"
        logits.append(_check(name, call, "logits", found, tolerance, "token"))
    source = f"the graph {old.decoder.name}"
    pairs = [(f"the graph {old.encoder.name}", hidden)] if old.encoder is not None else []
    return [verification_of(cases, name, tolerance) for name, cases in (*pairs, (source, logits))]


def _rows(rows: int) -> str:
    return "one row" if rows == 1 else "padded rows"


def _read(encoder: Encoder, sizes: dict[str, int], rows: int, vocabulary: int, seed: int) -> Arrays:
    specs = (*encoder.session.inputs, *encoder.session.optional)
    if "batch_size" in sizes:
        sizes["batch_size"] = rows
    inputs = random_inputs(specs, sizes, vocabulary, seed)
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        mask[1:, (mask.shape[1] + 1) // 2 :] = 0
    return inputs


def _greedy(
    writers: Sequence[_Writer], progress: Sequence[Progress], ids: np.ndarray, mask: np.ndarray
) -> list[np.ndarray]:
    """Logits of both at every step, (rows, steps, tokens)."""
    steps: list[list[np.ndarray]] = [[], []]
    for _ in range(_TOKENS):
        for writer, at, kept in zip(writers, progress, steps, strict=True):
            kept.append(writer.decoder.step(at, ids, mask))
        ids = steps[0][-1].argmax(-1)[:, None].astype(np.int64)
        mask = np.ones_like(ids)
    return [np.stack(kept, 1) for kept in steps]


def _check(
    name: str, sizes: Mapping[str, int], output: str, values: Sequence[np.ndarray], tolerance: tuple[float, float],
    decision: str | None = None,
) -> CaseCheck:  # fmt: skip
    """An output of the old graphs and the new ones."""
    wanted, found = values
    case = Case(name, dict(sizes), {}, {output: wanted})
    return check_case(lambda _: {output: found}, case, decision, None, *tolerance)
