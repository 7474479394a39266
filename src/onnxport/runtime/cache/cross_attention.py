"""The cross-attention cache of decoders that compute its keys and values themselves, in their first call.

Most decoders get these from the encoder's graph. Those of transformers.js get `encoder_hidden_states` in every call
and no past in the first one, whose output is the past of all later calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.runtime.cache.decoder_graph import CROSS_ATTENTION, DecoderGraph
from onnxport.runtime.cache.progress import Progress
from onnxport.tensor_names import present_name

_HIDDEN_STATES = "encoder_hidden_states"


def computed_states(graph: DecoderGraph) -> tuple[str, ...]:
    """The inputs for keys and values that the graph computes itself; empty if an encoder gives them."""
    if _HIDDEN_STATES not in graph.encoder_inputs:
        return ()
    return tuple(name for name in graph.encoder_inputs if CROSS_ATTENTION in name)


def keep_computed_states(graph: DecoderGraph, progress: Progress, outputs: Mapping[str, Any]) -> None:
    """After the first call: its keys and values are inputs from now on."""
    names = [name for name in computed_states(graph) if present_name(name) in outputs]
    progress.encoder_inputs |= {name: outputs[present_name(name)] for name in names}
