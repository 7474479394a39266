"""Whether a model with recurrent states takes several tokens after others in one call.

Upstream: the layers of mamba (transformers 5.23) begin a sequence of more than one token from states of zeros,
whatever the cache holds; only a single token goes on from there. Such a model is right for a prompt at once and
for steps, but not for a prompt in parts, and the loop over its tokens has their number in it. Its graph takes one
token a call, which is right for all three. So is that of a model which looks only at the last of several tokens
after others (CTRL of TensorFlow, transformers 4.52).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxport.dummy_inputs.decoder import PAST, SEQUENCE
from onnxport.tensor_names import present_name

if TYPE_CHECKING:
    from onnxport.dummy_inputs.decoder import DecoderInputGenerator
    from onnxport.sources.pytorch.decoder import DecoderSource
    from onnxport.sources.tensorflow.transformers import CachedSource

_TOKENS = 3
_ALIKE = 1e-3  # of the largest logit; another state moves logits by far more


def goes_on(source: DecoderSource | CachedSource, generator: DecoderInputGenerator) -> bool:
    """Whether tokens in one call give the last logits that they give one by one, over the same states."""
    sizes = {dim.name: dim.base_size for dim in generator.dims} | {SEQUENCE: _TOKENS}
    given = generator.make(sizes)
    states = {state.past: given.pop(state.past) for state in source.states}
    past = sizes.get(PAST, 0)
    with source.weights_kept():
        at_once = source.run({**given, **states})["logits"][:, -1]
        for token in range(_TOKENS):
            step = {name: value[:, token : token + 1] for name, value in given.items() if name != "attention_mask"}
            if "attention_mask" in given:
                step["attention_mask"] = given["attention_mask"][:, : past + token + 1]
            found = source.run({name: np.ascontiguousarray(value) for name, value in {**step, **states}.items()})
            states = {name: found[present_name(name)] for name in states}
    return bool(np.abs(found["logits"][:, -1] - at_once).max() <= _ALIKE * np.abs(at_once).max())
