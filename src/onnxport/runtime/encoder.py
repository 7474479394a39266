"""The encoder of an encoder-decoder: it runs once, and its outputs are inputs of every step of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.tensor_names import past_name

_DECODER_MASK = "encoder_attention_mask"
_AS_INPUT = {"last_hidden_state": "encoder_hidden_states"}
# A mask that is left out is all ones: name -> the inputs that have its shape.
_MASKS = {
    "attention_mask": ("input_ids", "input_values"),
    "pixel_mask": ("pixel_values",),
}


class Encoder:
    """Runs the graph, and names its outputs as the decoder's inputs.

    Args:
        session: a graph with the outputs `present.N.encoder.key` and `.value`; or with `last_hidden_state` alone, for
            a decoder that computes these itself.
    """

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self.inputs = tuple(spec.name for spec in session.inputs)

    def encode(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Run the encoder.

        Args:
            inputs: arrays (rows, ...) by the graph's names; others are ignored, and a missing mask is all ones.

        Returns:
            The decoder's inputs by name: keys and values of cross-attention (rows, heads, tokens, features), or
            `encoder_hidden_states` (rows, tokens, width); and `encoder_attention_mask` (rows, tokens), if there is
            a mask.

        Raises:
            UsageError: an input is missing, or of a type or size that the graph cannot take.
        """
        given = {name: np.asarray(inputs[name]) for name in self.inputs if name in inputs}
        for name in self.inputs:
            like = next((given[other] for other in _MASKS.get(name, ()) if other in given), None)
            if name not in given and like is not None:
                shape = (like.shape[0], *like.shape[2:]) if name == "pixel_mask" else like.shape
                given[name] = np.ones(shape, np.int64)
        made = self.session.run(given)
        outputs = {_AS_INPUT.get(name, past_name(name)): made[name] for name in made}
        mask = given.get("attention_mask", inputs.get("attention_mask"))
        if mask is not None and _DECODER_MASK not in outputs:  # some encoders return a shorter mask
            outputs[_DECODER_MASK] = np.asarray(mask)
        return outputs

    def rows(self, inputs: Mapping[str, Any]) -> int:
        """Number of rows of the inputs.

        Raises:
            UsageError: none of them is an input of the graph.
        """
        for name in self.inputs:
            if name in inputs:
                return int(np.shape(inputs[name])[0])
        raise UsageError(f"The encoder needs {', '.join(self.inputs)}.", hint="Give arrays by these names.")
