"""A decoder checked as it is used: greedy tokens of the source against those of the graphs.

The source generates with transformers' own `generate` and its own cache; the graph takes the prompt
in chunks and then token by token, each time over the states that it returned itself. So a state that
is wrong in a way that one call does not show, shows here. Of an encoder-decoder both graphs run, the
decoder over what the encoder's graph gave; of a model with images in its text all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from onnxport.artifact.data_files import graph_bytes
from onnxport.dummy_inputs.base import Arrays, InputGenerator, unrestricted
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt, prefill
from onnxport.runtime.embedded_decoder import EmbeddedDecoder, ImageReader
from onnxport.runtime.encoder import Encoder
from onnxport.runtime.session import OnnxSession
from onnxport.specs import CaseCheck
from onnxport.system.library_errors import first_line
from onnxport.system.threads import worth_threads
from onnxport.verification.level import Level

if TYPE_CHECKING:
    from onnxport.sources.base import Generates

_TOKENS = 32
# Each token reads all weights, from the disk where memory is short.
_FEW_TOKENS = 8
_MANY_BYTES = 2**32
# (name, rows, tokens of the longest prompt, tokens a call of the graph)
_RUNS = (("one row, prompt at once", 1, 9, 9), ("padded rows, prompt in chunks", 3, 11, 4))
# Beyond the usual lengths of single calls, and beyond a window of 64.
_LONG = ("long prompt in chunks", 1, 83, 37)


class _Prompter(Protocol):
    def prompt(self, rows: int, length: int) -> Arrays:
        """What the source's `generate` takes; rows after the first are padded."""
        ...


@dataclass(frozen=True)
class GreedyCase:
    """A prompt and what the source made of it.

    Attributes:
        name: for the record.
        chunk: tokens of the prompt that the graph gets in one call.
        prompt: `input_ids` and `attention_mask` (rows, tokens), padded on the left; of an encoder-decoder the
            encoder's inputs, and `decoder_input_ids` (rows, tokens); of a model with images in its text also what the
            image processor gives.
        tokens: what the source generated, (rows, steps).
        margins: by how much the best token led the second, (rows, steps).
        scale: largest |logit|.
        image_token: of a model with images in its text, stands for a row of image features.
    """

    name: str
    chunk: int
    prompt: Arrays
    tokens: np.ndarray
    margins: np.ndarray
    scale: float
    image_token: int | None = None


def record_greedy(source: Generates, generator: InputGenerator, level: Level = Level.STANDARD) -> list[GreedyCase]:
    """Let the source generate from prompts of its sampler."""
    steps = _TOKENS if source.weight_bytes < _MANY_BYTES else _FEW_TOKENS
    prompter: _Prompter = unrestricted(generator)  # type: ignore[assignment]  # that of a decoder has prompts
    cases = []
    for name, rows, length, chunk in _RUNS:
        cases.append(_generated(source, prompter.prompt(rows, length), steps, (name, chunk)))
    if level is not Level.QUICK and steps == _TOKENS:
        name, rows, length, chunk = _LONG
        with suppress(Exception):  # it is beyond the largest number of positions
            cases.append(_generated(source, prompter.prompt(rows, length), _FEW_TOKENS, (name, chunk)))
    return cases


def _generated(source: Generates, prompt: Arrays, steps: int, about: tuple[str, int]) -> GreedyCase:
    name, chunk = about
    tokens, margins, scale = source.generate(prompt, steps)
    return GreedyCase(
        f"{steps} greedy tokens, {name}", chunk, prompt, tokens, margins, scale, source.image_token
    )  # fmt: skip


def check_greedy(
    cases: Sequence[GreedyCase], decoder: Path, before: Sequence[Path], tolerance: tuple[float, float]
) -> tuple[CaseCheck, ...]:
    """Generate with the graphs.

    Tokens may part only where the source's two best logits are closer than the graph may be off
    (twice the tolerance, one for each); a row is compared up to there.

    Args:
        decoder: the graph.
        before: those that run before it: none, an encoder, or those of image features and of embeddings.
        tolerance: (absolute, relative) of the graphs' precision.
    """
    try:
        writer = _writer(decoder, before, cases[0].image_token if cases else None)
    except Exception as error:  # a graph that does not load is the finding
        return tuple(CaseCheck(case.name, {}, (), error=first_line(error), ok=False) for case in cases)
    return tuple(_check(case, writer, tolerance) for case in cases)


def greedy_agreement(
    prompt: Arrays, reference: tuple[Path, Path | None], other: tuple[Path, Path | None], steps: int = _TOKENS
) -> float:
    """Share of `steps` greedy tokens that two graphs have in common, up to the first that differs.

    Args:
        prompt: as in `GreedyCase`.
        reference, other: (decoder, encoder); the encoder is None for a decoder alone.
    """
    found = [
        _generate(prompt, _writer(decoder, (encoder,) if encoder else ()), steps)
        for decoder, encoder in (reference, other)
    ]
    return float(np.logical_and.accumulate(found[0] == found[1], axis=1).mean())


@dataclass(frozen=True)
class _Writer:
    """Graphs that write: the decoder's, and what makes its start of a prompt."""

    decoder: Decoder
    start: Callable[[Arrays], Prompt]


def _writer(file: Path, before: Sequence[Path], image_token: int | None = None) -> _Writer:
    # A step is a token a row: one thread reads the weights of most decoders as fast as several.
    threads = None if worth_threads(graph_bytes(file), 0) else 1
    sessions = [*(OnnxSession(one) for one in before), OnnxSession(file, threads=threads)]
    if image_token is not None:
        reader = ImageReader(sessions[0])
        decoder = EmbeddedDecoder(sessions[2], sessions[1], image_token)
        return _Writer(decoder, lambda prompt: reader.prompt(prompt, image_token))
    if before:
        encoder = Encoder(sessions[0])
        return _Writer(
            Decoder(sessions[1]),
            lambda prompt: Prompt(prompt["decoder_input_ids"], encoder_inputs=encoder.encode(prompt)),
        )
    return _Writer(Decoder(sessions[0]), lambda prompt: Prompt(prompt["input_ids"], prompt["attention_mask"]))


def _check(case: GreedyCase, writer: _Writer, tolerance: tuple[float, float]) -> CaseCheck:
    rows, steps = case.tokens.shape
    first = case.prompt["decoder_input_ids" if "decoder_input_ids" in case.prompt else "input_ids"]
    sizes = {"batch_size": rows, "prompt": first.shape[1], "tokens": steps}
    try:
        found = _generate(case.prompt, writer, steps, case.chunk)
    except Exception as error:  # whatever the run time says is the finding
        return CaseCheck(case.name, sizes, (), error=first_line(error), ok=False)
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


def _generate(prompt: Arrays, writer: _Writer, steps: int, chunk: int | None = None) -> np.ndarray:
    """The best token, step by step, past any end of text; no rule of the settings applies."""
    progress, logits = prefill(writer.decoder, writer.start(prompt), chunk)
    tokens = [logits.argmax(-1)]
    while len(tokens) < steps:
        tokens.append(writer.decoder.step(progress, tokens[-1][:, None]).argmax(-1))
    return np.stack(tokens, 1)
