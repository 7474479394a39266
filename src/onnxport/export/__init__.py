"""Export models as ONNX graphs: probing, tracing, and fixes for exporters."""
