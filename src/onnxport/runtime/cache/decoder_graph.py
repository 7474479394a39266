"""The inputs and outputs of a decoder's graph by what they are for, and one call of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxport.errors import FolderError, UsageError
from onnxport.runtime.cache.ort_values import to_ort_value
from onnxport.runtime.session import OnnxSession
from onnxport.specs import TensorSpec
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP, is_past

# Past keys and values of cross-attention, which are not computed from the decoder's tokens.
CROSS_ATTENTION = ".encoder."


class DecoderGraph:
    """A decoder's graph.

    Args:
        session: the loaded graph.
        token_inputs: possible names of the input that has the tokens.
        other_inputs: further inputs that are computed from the tokens.

    Attributes:
        specs: the inputs by name, with names of axes also where the graph has static shapes.
        tokens: the input that has the tokens, (rows, tokens, ...).
        states: the inputs that are the cache, without cross-attention.
        encoder_inputs: the inputs that an encoder gives.
        one_token: the model itself takes one token a call.
        masks_call_alone: the mask is of the tokens of a call, without those before: nothing of these is left but states
            of a fixed size.

    Raises:
        FolderError: the graph has no cache, or no tokens.
    """

    def __init__(self, session: OnnxSession, token_inputs: Sequence[str], other_inputs: Sequence[str]) -> None:
        self.session = session
        self.specs = {spec.name: _with_named_axes(session, spec) for spec in (*session.inputs, *session.optional)}
        self.states = [name for name in self.specs if is_past(name) and CROSS_ATTENTION not in name]
        self.tokens = next((name for name in token_inputs if name in self.specs), "")
        if not self.states or not self.tokens:
            raise FolderError(
                f"{session.file.name} cannot generate text: it has no past keys and values among its inputs.",
                hint="Convert the model with `--task text-generation`.",
            )
        axes = self.specs[self.tokens].axes
        self.one_token = len(axes) > 1 and axes[1] == 1
        mask = self.specs.get("attention_mask")
        self.masks_call_alone = mask is not None and isinstance(axes[1], str) and mask.axes[1:2] == axes[1:2]
        own = {self.tokens, *other_inputs, "attention_mask", "position_ids", NUM_LOGITS_TO_KEEP, *self.states}
        self.encoder_inputs = tuple(spec.name for spec in session.inputs if spec.name not in own)
        self._constants: dict[str, Any] = {}
        if NUM_LOGITS_TO_KEEP in self.specs:
            shape = [1] * len(self.specs[NUM_LOGITS_TO_KEEP].axes)
            self._constants[NUM_LOGITS_TO_KEEP] = self.value(NUM_LOGITS_TO_KEEP, np.ones(shape))

    def value(self, name: str, array: Any) -> Any:
        """An array as an OrtValue of the type of the input `name`."""
        return to_ort_value(array, self.specs[name].dtype)

    def is_recurrent(self, state: str) -> bool:
        """Whether a state has the same size after any number of tokens (convolutions, state space models)."""
        return not any(isinstance(size, str) for size in self.specs[state].axes[1:])

    def run(self, feed: dict[str, Any], buffers: dict[str, Any], size: str) -> dict[str, Any]:
        """Run the graph once.

        Args:
            feed: OrtValues by input name, without `num_logits_to_keep`, which is 1.
            buffers: OrtValues by output name, into which the graph writes; other outputs get new ones.
            size: describes the call in an error.

        Returns:
            The outputs as OrtValues.

        Raises:
            UsageError: ONNX Runtime cannot run the graph on these inputs.
        """
        try:
            return self._run({**feed, **self._constants}, buffers)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"ONNX Runtime cannot run {self.session.file.name} on {size}: {lines[-1][:300]}",
                hint="The text may be longer than the model's positions: shorten the prompt or lower max_new_tokens.",
            ) from error

    def _run(self, feed: dict[str, Any], buffers: dict[str, Any]) -> dict[str, Any]:
        outputs = [spec.name for spec in self.session.outputs]
        if not buffers:  # one call into ONNX Runtime instead of one for every tensor
            return dict(zip(outputs, self.session.raw.run_with_ort_values(outputs, feed), strict=True))
        binding = self.session.raw.io_binding()
        for name, value in feed.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            if name in buffers:
                binding.bind_ortvalue_output(name, buffers[name])
            else:
                binding.bind_output(name)
        self.session.raw.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=True))


def _with_named_axes(session: OnnxSession, spec: TensorSpec) -> TensorSpec:
    static = session.static_axes
    return spec if static is None else replace(spec, axes=static.axes.get(spec.name, spec.axes))
