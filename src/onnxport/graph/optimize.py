"""Fuse the attention of an encoder, apply ONNX Runtime's graph optimizations once, and store the result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.artifact.data_files import data_files, data_name, graph_bytes, next_free
from onnxport.publishing.destination import full_disk_told
from onnxport.system.memory import require_memory

if TYPE_CHECKING:
    from onnxport.graph.fusion.packed_attention import FusedLayers

# ONNX Runtime holds the weights of the source and of the optimized graph.
_COPIES = 2


def optimize_graph(source: Path, target: Path, taken: frozenset[str] = frozenset()) -> FusedLayers:
    """Write `target`: constants folded and operators fused as ONNX Runtime does each time it loads a graph.

    Attention becomes one operator (`fusion.packed_attention`), which ONNX Runtime's own optimizations do not find in
    these graphs. The level is "extended", not "all": the last level chooses layouts for the CPU at hand, and the file
    would be slow or wrong on another one.

    Args:
        source: a graph file; its weights may be in data files beside it.
        target: the file to write, with a data file beside it if the source has one.
        taken: names that the data file may not have.

    Returns:
        What became of the attention; ONNX Runtime does not tell what it fused.

    Raises:
        MemoryLimitError: the weights do not fit in memory.
        OSError: the disk is full.
    """
    import onnxruntime

    require_memory(
        _COPIES * graph_bytes(source), f"Optimizing {source.name}", "Use the graph as it is: ONNX Runtime optimizes it "
        "at every load."
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    if data_files(source):
        data = data_name(target.name, next_free(target.name, 0, taken))
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    with full_disk_told(target), _with_packed_attention(source, target.parent) as (graph, attention):
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        return attention


@contextmanager
def _with_packed_attention(source: Path, folder: Path) -> Iterator[tuple[Path, FusedLayers]]:
    """The graph with fused attention, in a temporary folder in `folder`; the graph itself if it has none."""
    from onnxport.graph.fusion.packed_attention import fuse_encoder_attention
    from onnxport.graph.quantization.weight_only import load_graph
    from onnxport.serialization.onnxfile import write_model

    model = load_graph(source)
    attention = fuse_encoder_attention(model)
    if not attention.layers:
        yield source, attention
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".optimizing-") as name:
        graph = Path(name) / source.name
        write_model(model, graph, external=bool(data_files(source)))
        del model
        yield graph, attention
