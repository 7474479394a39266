"""What the decoder of an encoder-decoder takes: its own tokens and past, and what the encoder made of an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxport.samples.base import Arrays, Knob, Sampler, Sizes
from onnxport.samples.decoder import PAST, SEQUENCE, STATE_SCALE
from onnxport.sources.states import State

_ENCODER = "encoder_"
LENGTH = "encoder_sequence_length"
Shapes = dict[str, tuple[int, ...]]


class CrossDecoderSampler:
    """Rows of tokens over a past, and over random states in the place of an encoder's.

    Args:
        encoder: makes the encoder's inputs.
        shapes: what the encoder makes of inputs: shapes by the names of its outputs.
        own, cross: the states of the decoder, and those that come from the encoder.
        vocabulary: number of tokens.
        mask: name of the input that carries the encoder's mask.
        first_token: what every answer begins with.
    """

    def __init__(
        self, encoder: Sampler, shapes: Callable[[Arrays], Shapes], own: Sequence[State], cross: Sequence[State],
        *, vocabulary: int, mask: str, first_token: int,
    ) -> None:  # fmt: skip
        self.encoder, self.shapes, self.own, self.cross = encoder, shapes, own, cross
        self.vocabulary, self.mask, self.first_token = vocabulary, mask, first_token
        self.can_pad = encoder.can_pad
        self.batch = next(knob.name for knob in encoder.knobs if knob.name.endswith("batch_size"))
        rows = next(knob for knob in encoder.knobs if knob.name == self.batch)
        others = [replace(knob, name=_ENCODER + knob.name, frames=LENGTH) for knob in encoder.knobs if knob is not rows]
        # A step is one token, and the first call has no past: both are in every verification.
        self.knobs = (rows, Knob(SEQUENCE, 5, (3, 9), edges=(1,)), Knob(PAST, 7, (4, 13), edges=(0,)), *others)
        self.joint_axes = {(state.past, state.growing): LENGTH for state in cross if state.growing is not None}
        self._seen: dict[tuple[int, ...], Shapes] = {}

    def prompt(self, rows: int, length: int) -> Arrays:
        """Inputs of the encoder, and `decoder_input_ids` (rows, length); rows after the first are padded."""
        sizes = {knob.name: knob.base for knob in self.encoder.knobs} | {self.batch: rows}
        ids = self._ids(rows, length, np.random.default_rng([rows, length]))
        ids[:, 0] = self.first_token
        return {**self.encoder.make(sizes, seed=length, padded=rows > 1), "decoder_input_ids": ids}

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Padded rows are padded in the encoder alone: every answer begins with the same token."""
        rows, length, past = sizes[self.batch], sizes[SEQUENCE], sizes[PAST]
        known = {name.removeprefix(_ENCODER): size for name, size in sizes.items() if name.startswith(_ENCODER)}
        given = self.encoder.make({self.batch: rows, **known}, seed=seed, padded=padded)
        made = self._shapes(given)
        rng = np.random.default_rng([seed, rows, length, past])
        arrays = {"input_ids": self._ids(rows, length, rng)}
        if "attention_mask" in given:
            arrays[self.mask] = given["attention_mask"]
        for state in self.own:
            shape = [rows, *state.shape[1:]]
            if state.growing is not None:
                shape[state.growing] = past
            arrays[state.past] = (rng.standard_normal(shape) * STATE_SCALE).astype(state.dtype)
        for state in self.cross:
            numbers = rng.standard_normal(made[state.present]) * STATE_SCALE
            arrays[state.past] = numbers.astype(state.dtype)
        return arrays

    def _ids(self, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(min(5, self.vocabulary - 1), self.vocabulary, (rows, length), dtype=np.int64)

    def _shapes(self, given: Arrays) -> Shapes:
        key = tuple(size for array in given.values() for size in array.shape)
        if key not in self._seen:
            self._seen[key] = self.shapes(given)
        return self._seen[key]
