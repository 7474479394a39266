"""Write a decoder with ONNX Runtime's fused operators for one execution provider, instead of portable operators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxport.errors import ExportError
from onnxport.graph.fusion.attention_layers import NotFusedError
from onnxport.graph.fusion.group_query_attention import FusedAttention, fuse_attention
from onnxport.graph.fusion.skip_norm import fuse_skip_norms
from onnxport.runtime.cache.packed_rows import CACHE_KEY, LONGEST_KEY, PACKED, WINDOW_KEY


@dataclass(frozen=True)
class FusedDecoder:
    """What was fused in a graph.

    Attributes:
        attention: the fused attention layers.
        norms: number of norms that were fused with the addition before them.
        inputs: names of the graph's inputs.
    """

    attention: FusedAttention
    norms: int
    inputs: tuple[str, ...]


def write_fused_decoder(source: Path, target: Path, max_tokens: int) -> FusedDecoder:
    """Write `target`: the decoder `source` with fused attention, norms and projections.

    Args:
        source: the portable graph.
        target: the file to write.
        max_tokens: largest number of past and new tokens in a call; the graph accepts no more.

    Returns:
        What was fused.

    Raises:
        ExportError: the attention cannot be fused.
    """
    import onnx_ir as ir

    from onnxport.artifact.data_files import data_files
    from onnxport.serialization.onnxfile import write_model

    model = ir.load(source)
    try:
        attention = fuse_attention(model, max_tokens)
    except NotFusedError as error:
        raise ExportError(
            f"{error}.",
            hint=f"Use onnx/{source.name}, which works without fusion.",
        ) from error
    norms = fuse_skip_norms(model)
    model.metadata_props[CACHE_KEY] = PACKED
    model.metadata_props[LONGEST_KEY] = str(attention.max_tokens)
    if attention.windows:
        model.metadata_props[WINDOW_KEY] = str(min(attention.windows))
    write_model(model, target, external=bool(data_files(source)))
    return FusedDecoder(attention, norms, tuple(str(value.name) for value in model.graph.inputs))
