"""ONNX Runtime's own graph optimizations, done once and stored."""

from __future__ import annotations

from pathlib import Path

from onnxport.artifact.data_files import graph_bytes
from onnxport.system.memory import require_memory

# ONNX Runtime holds the weights as they are in the file and as its optimizer writes them.
_COPIES = 2


def optimize_graph(source: Path, target: Path) -> None:
    """Write `target`: constants folded and operators fused as ONNX Runtime does at every load.

    The extended level, not the last one: that one picks layouts for the processor at hand, and the
    file would be slow or wrong on another.

    Raises:
        MemoryLimitError: the weights do not fit into memory.
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
    if source.with_name(source.name + "_data").exists():
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", target.name + "_data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
