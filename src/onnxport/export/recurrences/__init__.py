"""Recurrences of linear attention and state spaces as operators of a trace, and what they are in ONNX.

`operators` has them for torch, `translate` for ONNX; `export.fixes.linear_recurrences` puts them in the place of the
functions of transformers.
"""
