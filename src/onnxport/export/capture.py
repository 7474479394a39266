"""Export a source as an ONNX graph, with the exporter of its framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from onnxport.export.captured import Captured
from onnxport.system.output_capture import capture_thread

if TYPE_CHECKING:
    from onnxport.export.signature import Signature
    from onnxport.sources.base import Source
    from onnxport.sources.pytorch.source import TorchSource
    from onnxport.sources.tensorflow.source import TensorflowSource


def capture(source: Source, signature: Signature, opset: int) -> Captured:
    """Export `source` with the dynamic axes of `signature`. Weights are attached; the graph is not simplified.

    Args:
        source: the model.
        signature: its inputs, outputs and axes.
        opset: the opset that is wanted; the exporter may use a newer one.

    Raises:
        ExportError: the framework cannot capture the model.
    """
    with capture_thread():  # both exporters print banners and log every operator that they look at
        if source.framework == "tf":
            from onnxport.export.tensorflow import capture_tensorflow

            return capture_tensorflow(cast("TensorflowSource", source), signature, opset)
        from onnxport.export.pytorch import capture_pytorch

        return capture_pytorch(cast("TorchSource", source), signature, opset)
