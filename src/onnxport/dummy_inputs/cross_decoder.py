"""Inputs of the decoder of an encoder-decoder: its tokens and past, and cross-attention states of the encoder."""

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
    """Makes rows of tokens with a past, and random states instead of the encoder's.

    Args:
        inputs: makes the encoder's inputs.
        encoder: gives the shapes of the encoder's outputs.
        own_states: cache tensors of the decoder's self-attention.
        vocabulary: number of tokens.
        first_token: token that every answer starts with.
    """

    def __init__(
        self,
        inputs: InputGenerator,
        encoder: Encodes,
        own_states: Sequence[State],
        *,
        vocabulary: int,
        first_token: int,
    ) -> None:
        self.inputs, self.encoder, self.own_states, self.cross_states = inputs, encoder, own_states, encoder.states
        self.vocabulary, self.first_token = vocabulary, first_token
        self.can_pad = inputs.can_pad
        self.batch = next(dim.name for dim in inputs.dims if dim.name.endswith("batch_size"))
        rows = next(dim for dim in inputs.dims if dim.name == self.batch)
        self._encoder_shapes: dict[tuple[int, ...], Shapes] = {}
        others = [
            replace(
                dim, name=_ENCODER + dim.name, derived_axis=_ENCODER + dim.derived_axis if dim.derived_axis else LENGTH
            )
            for dim in inputs.dims
            if dim is not rows and self._changes_encoder_output(dim)
        ]
        # Decoding runs one token per call, and the first call has no past: every verification includes both.
        self.dims = (
            rows,
            DynamicDim(SEQUENCE, 5, (3, 9), edge_sizes=(1,)),
            DynamicDim(PAST, 7, (4, 13), edge_sizes=(0,)),
            *others,
        )
        self.joint_axes = {
            (state.past, state.growing): LENGTH for state in self.cross_states if state.growing is not None
        }
        if self._mask_matches_keys():
            self.joint_axes[MASK, 1] = LENGTH

    def prompt(self, rows: int, length: int) -> Arrays:
        """Return inputs of the encoder, and `decoder_input_ids` (rows, length). Rows after the first are padded.

        Args:
            rows: number of rows.
            length: number of tokens.
        """
        sizes = {dim.name: dim.base_size for dim in self.inputs.dims} | {self.batch: rows}
        ids = self._ids(rows, length, np.random.default_rng([rows, length]))
        ids[:, 0] = self.first_token
        return {**self.inputs.make(sizes, seed=length, padded=rows > 1 and self.can_pad), "decoder_input_ids": ids}

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name. Padding is only in the encoder's inputs: every answer starts with the same token."""
        rows, length, past = sizes[self.batch], sizes[SEQUENCE], sizes[PAST]
        base = {dim.name: sizes.get(_ENCODER + dim.name, dim.base_size) for dim in self.inputs.dims}
        given = self.inputs.make(base | {self.batch: rows}, seed=seed, padded=padded)
        encoded = self._shapes(given)
        rng = np.random.default_rng([seed, rows, length, past])
        arrays = {"input_ids": self._ids(rows, length, rng)}
        mask = self._mask(given)
        if mask is not None:
            arrays[MASK] = mask
        for state in self.own_states:
            shape = [rows, *state.shape[1:]]
            if state.growing is not None:
                shape[state.growing] = past
            arrays[state.past] = (rng.standard_normal(shape) * STATE_SCALE).astype(state.dtype)
        for state in self.cross_states:
            numbers = rng.standard_normal(encoded[state.present]) * STATE_SCALE
            arrays[state.past] = numbers.astype(state.dtype)
        return {name: np.ascontiguousarray(value) for name, value in arrays.items()}

    def _ids(self, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(min(5, self.vocabulary - 1), self.vocabulary, (rows, length), dtype=np.int64)

    def _changes_encoder_output(self, dim: DynamicDim) -> bool:
        """Return whether the shapes of the encoder's outputs depend on the dimension."""
        base = {dim.name: dim.base_size for dim in self.inputs.dims}
        first = self.encoder.shapes(self.inputs.make(base))
        for size in dim.probe_sizes:
            with suppress(Exception):  # the encoder fails at that size
                return self.encoder.shapes(self.inputs.make(base | {dim.name: size})) != first
        return False

    def _mask_matches_keys(self) -> bool:
        """Return whether the mask has one entry per key; it may have one per frame that the keys were made of."""
        state = next((state for state in self.cross_states if state.growing is not None), None)
        base = {dim.name: dim.base_size for dim in self.inputs.dims}
        others = [{**base, dim.name: size} for dim in self.inputs.dims for size in dim.probe_sizes[:1]]
        for sizes in (base, *others):
            with suppress(Exception):  # the encoder fails at that size
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
        if key not in self._encoder_shapes:
            self._encoder_shapes[key] = self.encoder.shapes(given)
        return self._encoder_shapes[key]
