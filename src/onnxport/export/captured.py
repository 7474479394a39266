"""A graph as an exporter gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

    from onnxport.export.signature import Signature


@dataclass(frozen=True)
class Captured:
    """A graph and the signature that it really has."""

    model: onnx_ir.Model
    signature: Signature
