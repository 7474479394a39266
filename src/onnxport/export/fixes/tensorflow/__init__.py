"""Fixes for graphs that tf2onnx makes from TensorFlow functions, each with its upstream cause."""
