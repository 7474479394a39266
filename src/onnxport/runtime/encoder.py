"""The encoder graph of an encoder-decoder: run once, it gives what the decoder reads at every step."""

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
# A mask that was left out hides nothing: name -> the inputs whose first axes it has.
_MASKS = {
    "attention_mask": ("input_ids", "input_values"),
    "pixel_mask": ("pixel_values",),
}


class Encoder:
    """Runs the graph and names its outputs as the decoder's inputs.

    Args:
        session: a graph that ends in `present.N.encoder.key` and `.value`, or in `last_hidden_state` alone, where the
            decoder makes these of it.
    """

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self.inputs = tuple(spec.name for spec in session.inputs)

    def encode(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """What the decoder gets at every step: cross-attention keys and values, (rows, heads, tokens, features),
        `encoder_hidden_states` (rows, tokens, width), and `encoder_attention_mask` (rows, tokens), where a mask is
        given or made.

        Args:
            inputs: arrays (rows, ...) by the graph's names; one that it does not take is ignored, and a mask
                that is missing hides nothing.

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
        fixed = {_AS_INPUT.get(name, past_name(name)): made[name] for name in made}
        mask = given.get("attention_mask", inputs.get("attention_mask"))
        if mask is not None and _DECODER_MASK not in fixed:  # unless the encoder made a shorter one of it
            fixed[_DECODER_MASK] = np.asarray(mask)
        return fixed

    def rows(self, inputs: Mapping[str, Any]) -> int:
        """How many rows the inputs have.

        Raises:
            UsageError: none of them is an input of the graph.
        """
        for name in self.inputs:
            if name in inputs:
                return int(np.shape(inputs[name])[0])
        raise UsageError(f"The encoder needs {', '.join(self.inputs)}.", hint="Give arrays by these names.")
