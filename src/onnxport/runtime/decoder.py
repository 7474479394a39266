"""One decoder graph, step by step: its states stay in ONNX Runtime's buffers from call to call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import FolderError
from onnxport.runtime.session import OnnxSession

_PAST = "past_"


@dataclass
class Progress:
    """Where a generation stands.

    Attributes:
        mask: (rows, tokens so far) int64; 0 is padding.
        states: the graph's buffers by input name.
    """

    mask: NDArray[np.int64]
    states: dict[str, Any]


class Decoder:
    """Feeds tokens to a graph and gives the logits of the next.

    Args:
        session: a graph with `input_ids`, states `past_...` and outputs `logits` and `present...`.

    Raises:
        FolderError: the graph has no states.
    """

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self._specs = {spec.name: spec for spec in session.inputs}
        self._states = [name for name in self._specs if name.startswith(_PAST)]
        if not self._states or "input_ids" not in self._specs:
            raise FolderError(
                f"{session.file.name} does not generate: it has no states between two calls.",
                hint="Convert the model with `--task text-generation`.",
            )

    def start(self, rows: int) -> Progress:
        """Before the first token: no past, and recurrent states of zeros."""
        return Progress(np.zeros((rows, 0), np.int64), {name: self._empty(name, rows) for name in self._states})

    def step(
        self, progress: Progress, input_ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Take tokens in; `progress` is moved on.

        Args:
            input_ids: (rows, tokens), one token or many.
            mask: the same shape, 0 where a token is padding; padding is on the left.

        Returns:
            The logits after the last token, (rows, vocabulary).
        """
        import onnxruntime

        new = np.ones_like(input_ids) if mask is None else mask.astype(np.int64)
        past = progress.mask.shape[1]
        whole = np.concatenate([progress.mask, new], 1)
        positions = np.maximum(whole.cumsum(1) - 1, 0)[:, past:]
        given = {"input_ids": input_ids, "attention_mask": whole, "position_ids": positions}
        binding = self.session.raw.io_binding()
        for name, array in given.items():
            if name in self._specs:
                value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, np.int64))
                binding.bind_ortvalue_input(name, value)
        for name, value in progress.states.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [spec.name for spec in self.session.outputs]
        for name in outputs:
            binding.bind_output(name)
        self.session.raw.run_with_iobinding(binding)
        found = dict(zip(outputs, binding.get_outputs(), strict=True))
        progress.mask = whole
        progress.states = {name: found[present_name(name)] for name in self._states}
        logits: NDArray[np.float32] = found["logits"].numpy()[:, -1].astype(np.float32)
        return logits

    def _empty(self, name: str, rows: int) -> Any:
        import onnxruntime

        spec = self._specs[name]
        shape = [rows, *(0 if isinstance(size, str) else size for size in spec.axes[1:])]
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, spec.dtype))


def present_name(past: str) -> str:
    """The output that a state's next input comes from: `past_key_values.0.key` from `present.0.key`."""
    if past.startswith("past_key_values."):
        return past.replace("past_key_values.", "present.")
    return past.replace(_PAST, "present_", 1)
