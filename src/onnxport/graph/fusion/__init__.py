"""Fuse attention and normalization of a decoder into operators of ONNX Runtime."""
