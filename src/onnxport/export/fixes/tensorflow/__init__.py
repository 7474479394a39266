"""Repairs of what tf2onnx makes of a TensorFlow graph, each with its upstream cause."""
