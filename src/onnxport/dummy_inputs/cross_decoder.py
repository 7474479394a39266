"""What the decoder of an encoder-decoder takes: its own tokens and past, and what the encoder made of an input."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, InputGenerator, Sizes
from onnxport.dummy_inputs.decoder import PAST, SEQUENCE, STATE_SCALE
from onnxport.sources.base import Encodes
from onnxport.sources.states import State

_ENCODER = "encoder_"
MASK = "encoder_attention_mask"
LENGTH = "encoder_sequence_length"
Shapes = dict[str, tuple[int, ...]]


class CrossDecoderInputGenerator:
    """Rows of tokens over a past, and over random states in the place of an encoder's.

    Args:
        inputs: makes the encoder's inputs.
        encoder: says what the encoder makes of them.
        own: the states of the decoder.
        vocabulary: number of tokens.
        first_token: what every answer begins with.
    """

    def __init__(
        self, inputs: InputGenerator, encoder: Encodes, own: Sequence[State], *, vocabulary: int, first_token: int
    ) -> None:
        self.inputs, self.encoder, self.own, self.cross = inputs, encoder, own, encoder.states
        self.vocabulary, self.first_token = vocabulary, first_token
        self.can_pad = inputs.can_pad
        self.batch = next(dim.name for dim in inputs.dims if dim.name.endswith("batch_size"))
        rows = next(dim for dim in inputs.dims if dim.name == self.batch)
        self._seen: dict[tuple[int, ...], Shapes] = {}
        others = [
            replace(dim, name=_ENCODER + dim.name, frames=_ENCODER + dim.frames if dim.frames else LENGTH)
            for dim in inputs.dims
            if dim is not rows and self._reaches(dim)
        ]
        # A step is one token, and the first call has no past: both are in every verification.
        self.dims = (
            rows,
            DynamicDim(SEQUENCE, 5, (3, 9), edges=(1,)),
            DynamicDim(PAST, 7, (4, 13), edges=(0,)),
            *others,
        )
        self.joint_axes = {(state.past, state.growing): LENGTH for state in self.cross if state.growing is not None}
        if self._mask_is_as_long():
            self.joint_axes[MASK, 1] = LENGTH

    def prompt(self, rows: int, length: int) -> Arrays:
        """Inputs of the encoder, and `decoder_input_ids` (rows, length); rows after the first are padded."""
        sizes = {dim.name: dim.base for dim in self.inputs.dims} | {self.batch: rows}
        ids = self._ids(rows, length, np.random.default_rng([rows, length]))
        ids[:, 0] = self.first_token
        return {**self.inputs.make(sizes, seed=length, padded=rows > 1 and self.can_pad), "decoder_input_ids": ids}

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Padded rows are padded in the encoder alone: every answer begins with the same token."""
        rows, length, past = sizes[self.batch], sizes[SEQUENCE], sizes[PAST]
        base = {dim.name: sizes.get(_ENCODER + dim.name, dim.base) for dim in self.inputs.dims}
        given = self.inputs.make(base | {self.batch: rows}, seed=seed, padded=padded)
        made = self._shapes(given)
        rng = np.random.default_rng([seed, rows, length, past])
        arrays = {"input_ids": self._ids(rows, length, rng)}
        mask = self._mask(given)
        if mask is not None:
            arrays[MASK] = mask
        for state in self.own:
            shape = [rows, *state.shape[1:]]
            if state.growing is not None:
                shape[state.growing] = past
            arrays[state.past] = (rng.standard_normal(shape) * STATE_SCALE).astype(state.dtype)
        for state in self.cross:
            numbers = rng.standard_normal(made[state.present]) * STATE_SCALE
            arrays[state.past] = numbers.astype(state.dtype)
        return {name: np.ascontiguousarray(value) for name, value in arrays.items()}

    def _ids(self, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(min(5, self.vocabulary - 1), self.vocabulary, (rows, length), dtype=np.int64)

    def _reaches(self, dim: DynamicDim) -> bool:
        """Whether what the encoder gives has another size with another size of the knob."""
        base = {dim.name: dim.base for dim in self.inputs.dims}
        first = self.encoder.shapes(self.inputs.make(base))
        for size in dim.others:
            with suppress(Exception):  # the encoder refuses that size
                return self.encoder.shapes(self.inputs.make(base | {dim.name: size})) != first
        return False

    def _mask_is_as_long(self) -> bool:
        """Whether the mask has one number for each key; it may be that of the frames that the keys were made of."""
        state = next((state for state in self.cross if state.growing is not None), None)
        base = {dim.name: dim.base for dim in self.inputs.dims}
        others = [{**base, dim.name: size} for dim in self.inputs.dims for size in dim.others[:1]]
        for sizes in (base, *others):
            with suppress(Exception):  # the encoder refuses that size
                given = self.inputs.make(sizes)
                mask = self._mask(given)
                if state is None or state.growing is None or mask is None:
                    return False
                if mask.shape[1] != self.encoder.shapes(given)[state.present][state.growing]:
                    return False
        return True

    def _mask(self, given: Arrays) -> np.ndarray | None:
        return self.encoder.run(given)[MASK] if self.encoder.gives_mask else given.get("attention_mask")

    def _shapes(self, given: Arrays) -> Shapes:
        key = tuple(size for array in given.values() for size in array.shape)
        if key not in self._seen:
            self._seen[key] = self.encoder.shapes(given)
        return self._seen[key]
