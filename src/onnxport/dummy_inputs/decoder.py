"""What a decoder takes: tokens, what the mask hides, and the states of the tokens before them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes
from onnxport.dummy_inputs.text import TextInputGenerator
from onnxport.sources.states import State

SEQUENCE, PAST, TOTAL = "sequence_length", "past_sequence_length", "total_sequence_length"
# About the scale of keys and values of trained models, which norms keep near one.
STATE_SCALE = 0.5
_ONE_BY_ONE = "of several tokens in a call the model reads one alone, or begins again"


class DecoderInputGenerator:
    """Rows of tokens over a past.

    Args:
        text: makes the tokens.
        states: the inputs that carry the past; their numbers are random.
        accepts: names of the forward's parameters.
    """

    def __init__(self, text: TextInputGenerator, states: Sequence[State], accepts: frozenset[str] | None) -> None:
        self.text, self.states, self.accepts = text, states, accepts
        grows = any(state.growing is not None for state in states)
        # A step is one token, and the first call has no past: both are in every verification.
        length = DynamicDim(SEQUENCE, 5, (3, 9), edges=(1,))
        past = DynamicDim(PAST, 7, (4, 13), edges=(0,))
        self.dims = (DynamicDim(text.batch, 2, (3, 5)), length, *([past] if grows else []))
        self.joint_axes = {("attention_mask", 1): TOTAL}
        self.grows = grows
        self.can_pad = self.has_mask = True

    def one_by_one(self) -> DecoderInputGenerator:
        """The same for a model that takes one token a call.

        Without a past that grows there is nothing that a mask could hide: the run time leaves the states of
        a row alone while it gets padding.
        """
        own = copy(self)
        own.dims = tuple(
            DynamicDim(SEQUENCE, 1, (), why_fixed=_ONE_BY_ONE) if dim.name == SEQUENCE else dim for dim in self.dims
        )
        own.can_pad = own.has_mask = self.grows
        return own

    def prompt(self, rows: int, length: int) -> Arrays:
        """`input_ids` and `attention_mask`, (rows, length); rows after the first are padded on the left."""
        mask = self._mask(rows, length, padded=True)
        ids = self.text.make({self.text.batch: rows, SEQUENCE: length}, seed=length)["input_ids"]
        return {"input_ids": np.where(mask == 1, ids, self._padding()), "attention_mask": mask}

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Padded rows are padded on the left, as generation needs it: the new tokens are at the end."""
        rows, length, past = sizes[self.text.batch], sizes[SEQUENCE], sizes.get(PAST, 0)
        whole = self.text.make({self.text.batch: rows, SEQUENCE: past + length}, seed=seed)
        mask = self._mask(rows, past + length, padded)
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        arrays = {"input_ids": whole["input_ids"][:, past:]}
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
