"""The result of an exporter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

    from onnxport.export.signature import Signature


@dataclass(frozen=True)
class Captured:
    """A captured graph.

    Attributes:
        model: the graph, not simplified.
        signature: its actual signature; the exporter may have added restrictions.
    """

    model: onnx_ir.Model
    signature: Signature
