"""The result of an exporter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        variables: of TensorFlow, name of a weight -> id of the handle of its variable.
    """

    model: onnx_ir.Model
    signature: Signature
    variables: Mapping[str, int] = field(default_factory=dict)
