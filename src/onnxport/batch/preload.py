"""Imported once by the server that jobs are forked from: what most conversions import."""

from __future__ import annotations

import importlib
from contextlib import suppress

for _name in (
    "onnxruntime",
    "torch",
    "torch.export",
    "torch.onnx",
    "transformers",
    "transformers.exporters",
    "onnx_ir",
):
    # Whatever an optional package raises, a job that needs it will say so.
    with suppress(Exception):
        importlib.import_module(_name)
