"""Inputs of a decoder: tokens, attention mask, positions, and the states of past tokens."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes
from onnxport.dummy_inputs.text import TextInputGenerator
from onnxport.sources.states import State

SEQUENCE, PAST, TOTAL = "sequence_length", "past_sequence_length", "total_sequence_length"
# About the scale of keys and values of trained models.
STATE_SCALE = 0.5
_SINGLE_TOKEN = "the model reads only one token of a call, or starts again with several"


class DecoderInputGenerator:
    """Makes rows of tokens with a past.

    Args:
        text: makes the tokens.
        states: the inputs that carry the past; their values are random.
        accepts: parameter names of the model's forward, or None for all.
    """

    def __init__(self, text: TextInputGenerator, states: Sequence[State], accepts: frozenset[str] | None) -> None:
        self.text, self.states, self.accepts = text, states, accepts
        has_growing_past = any(state.growing is not None for state in states)
        # Decoding runs one token per call, and the first call has no past: every verification includes both.
        length = DynamicDim(SEQUENCE, 5, (3, 9), edge_sizes=(1,))
        past = DynamicDim(PAST, 7, (4, 13), edge_sizes=(0,))
        self.dims = (DynamicDim(text.batch, 2, (3, 5)), length, *([past] if has_growing_past else []))
        self.joint_axes = {("attention_mask", 1): TOTAL}
        self.has_growing_past = has_growing_past
        self.can_pad = self.has_mask = True

    def single_token(self) -> DecoderInputGenerator:
        """Return the generator for a model that takes one token per call.

        Without a growing past there is nothing to mask: the run time does not update the states of a row while it gets
        padding.
        """
        own = copy(self)
        own.dims = tuple(
            DynamicDim(SEQUENCE, 1, (), why_static=_SINGLE_TOKEN) if dim.name == SEQUENCE else dim for dim in self.dims
        )
        own.can_pad = own.has_mask = self.has_growing_past
        return own

    def prompt(self, rows: int, length: int) -> Arrays:
        """Return `input_ids` and `attention_mask`, (rows, length). Rows after the first are padded on the left.

        Args:
            rows: number of rows.
            length: number of tokens.
        """
        mask = self._mask(rows, length, padded=True)
        ids = self.text.make({self.text.batch: rows, SEQUENCE: length}, seed=length)["input_ids"]
        return {"input_ids": np.where(mask == 1, ids, self._padding()), "attention_mask": mask}

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name. Rows are padded on the left, as generation needs it: new tokens are at the end."""
        rows, length, past = sizes[self.text.batch], sizes[SEQUENCE], sizes.get(PAST, 0)
        encoded = self.text.make({self.text.batch: rows, SEQUENCE: past + length}, seed=seed)
        mask = self._mask(rows, past + length, padded)
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        arrays = {"input_ids": encoded["input_ids"][:, past:]}
        if self.has_mask and self._takes("attention_mask"):
            arrays["attention_mask"] = mask
        if self._takes("position_ids"):
            arrays["position_ids"] = positions[:, past:]
        rng = np.random.default_rng([seed, rows, length, past])
        for state in self.states:
            shape = [rows, *state.shape[1:]]
            if state.growing is not None:
                shape[state.growing] = past
            arrays[state.past] = (rng.standard_normal(shape) * STATE_SCALE).astype(state.dtype)
        return {name: np.ascontiguousarray(value) for name, value in arrays.items()}

    def _mask(self, rows: int, length: int, padded: bool) -> np.ndarray:
        mask = np.ones((rows, length), np.int64)
        for row in range(1, rows) if padded else ():
            mask[row, : length * row // (rows + 1)] = 0
        return mask

    def _padding(self) -> int:
        known = getattr(self.text.config, "pad_token_id", None)
        return known if isinstance(known, int) else 0

    def _takes(self, name: str) -> bool:
        return self.accepts is None or name in self.accepts
