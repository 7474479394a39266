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
from onnxport.specs import CaseCheck, OutputCheck, Verification
from onnxport.verification.compare import TOLERANCES

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
        precision: row of `comparison.TOLERANCES`. Numbers of 8 bits can fall to the next level where sums come in
            another order.

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
            hidden.append(_case(f"hidden states, {_rows(rows)}", axes, [(_HIDDEN, states[0], states[1])], tolerance))
        else:
            mask[1:, : tokens // 2] = 0
        found, agreed = _greedy(writers, [writer.start(inputs, rows) for writer in writers], ids, mask)
        name = f"logits of {tokens} tokens and {_TOKENS} greedy tokens, {_rows(rows)}"
        logits.append(_case(name, call, found, tolerance, agreed))
    source = f"the graph {old.decoder.name}"
    pairs = [(f"the graph {old.encoder.name}", hidden)] if old.encoder is not None else []
    return [_verification(name, cases, tolerance) for name, cases in (*pairs, (source, logits))]


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
) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], float]:
    """Logits of both at every step, and the share of best tokens that are the same."""
    steps: list[list[np.ndarray]] = [[], []]
    for _ in range(_TOKENS):
        for writer, at, kept in zip(writers, progress, steps, strict=True):
            kept.append(writer.decoder.step(at, ids, mask))
        ids = steps[0][-1].argmax(-1)[:, None].astype(np.int64)
        mask = np.ones_like(ids)
    ours, theirs = (np.stack(kept, 1) for kept in steps)
    return [("logits", ours, theirs)], float((ours.argmax(-1) == theirs.argmax(-1)).mean())


def _case(
    name: str, sizes: Mapping[str, int], outputs: Sequence[tuple[str, np.ndarray, np.ndarray]],
    tolerance: tuple[float, float], agreed: float | None = None,
) -> CaseCheck:  # fmt: skip
    checks = tuple(_check(*output, tolerance) for output in outputs)
    decision = "token" if agreed is not None else None
    return CaseCheck(name, dict(sizes), checks, decision, agreed, ok=all(check.ok for check in checks))


def _check(name: str, wanted: np.ndarray, found: np.ndarray, row: tuple[float, float]) -> OutputCheck:
    scale = float(np.abs(wanted).max())
    error = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
    tolerance = row[0] + row[1] * scale
    # Not the other way round: what is no number is no agreement.
    return OutputCheck(
        name, found.shape, error, error / scale if scale else error, scale, tolerance, error <= tolerance
    )


def _verification(source: str, cases: list[CaseCheck], tolerance: tuple[float, float]) -> Verification:
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__} (CPUExecutionProvider)"
    return Verification(all(case.ok for case in cases), source, runtime, *tolerance, tuple(cases))
