"""onnxport."""
