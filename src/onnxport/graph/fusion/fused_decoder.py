"""A decoder's graph for one kind of processor: ONNX Runtime's fused operators instead of portable ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxport.errors import ExportError
from onnxport.graph.fusion.attention_layers import NotFusedError
from onnxport.graph.fusion.grouped_attention import Attentions, group_attention
from onnxport.graph.fusion.skip_norm import fuse_skip_norms
from onnxport.runtime.cache.packed_rows import CACHE_KEY, LONGEST_KEY, PACKED, WINDOW_KEY


@dataclass(frozen=True)
class Fused:
    """What was done to a graph.

    Attributes:
        attentions: the layers that were fused.
        norms: how many norms took the sum before them.
        inputs: names of the graph's inputs.
    """

    attentions: Attentions
    norms: int
    inputs: tuple[str, ...]


def write_fused_decoder(source: Path, target: Path, longest: int) -> Fused:
    """Write `target`: the decoder `source` with fused attention, norms and projections.

    Args:
        longest: tokens, past and new, that the graph must take; it refuses more.

    Raises:
        ExportError: its attention cannot be fused; nothing was written.
    """
    import onnx_ir as ir

    from onnxport.artifact.data_files import data_files
    from onnxport.serialization.onnxfile import write_model

    model = ir.load(source)
    try:
        attentions = group_attention(model, longest)
    except NotFusedError as error:
        raise ExportError(
            f"{source.name} cannot be fused: {error}.",
            hint="Use model.onnx as it is, or `onnxport optimize` without --for.",
        ) from error
    norms = fuse_skip_norms(model)
    model.metadata_props[CACHE_KEY] = PACKED
    model.metadata_props[LONGEST_KEY] = str(attentions.longest)
    if attentions.windows:
        model.metadata_props[WINDOW_KEY] = str(min(attentions.windows))
    write_model(model, target, external=bool(data_files(source)))
    return Fused(attentions, norms, tuple(str(value.name) for value in model.graph.inputs))
