"""Which opsets can be written, and which one is written by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.errors import ExportError, UsageError

if TYPE_CHECKING:
    import onnx_ir

# torch.onnx translates to opset 18 and converts from there; the converter has no way below 17
# (LayerNormalization) and stops without a word, so that a model would silently stay at 18.
OLDEST = 17
LOWEST_CAPTURED = 18
# Above 23 torch.onnx and onnxscript lose their fused forms: 24 decomposes RMSNormalization and
# RotaryEmbedding, and with 25 onnxruntime 1.32 fuses nothing (MiniLM, 8 x 128 tokens: 97 ms
# against 84 ms). So 23 is the newest opset that onnxruntime runs at full speed.
DEFAULT = 23
# tf2onnx 1.17 translates to 13 to 18; onnxscript's converter goes above.
OLDEST_TENSORFLOW = 13
NEWEST_TENSORFLOW = 18
_TRANSLATED = 25
_AXES_ARE_INPUTS, _NOOP = 18, "noop_with_empty_axes"


def newest() -> int:
    """The newest opset that both torch.onnx writes and the installed onnxruntime runs."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    known = max(schema.since_version for schema in get_all_operator_schema() if schema.domain in ("", "ai.onnx"))
    return min(known, _TRANSLATED)


def choose_opset(requested: int | None, framework: str = "pt") -> int:
    """The opset to write.

    Args:
        framework: of the model, "pt" or "tf".

    Raises:
        UsageError: `requested` is outside the range that can be written and run.
    """
    limit, oldest = newest(), OLDEST_TENSORFLOW if framework == "tf" else OLDEST
    usual = min(NEWEST_TENSORFLOW if framework == "tf" else DEFAULT, limit)
    if requested is None:
        return usual
    if not oldest <= requested <= limit:
        raise UsageError(
            f"Opset {requested} is out of range: {oldest} to {limit} can be written and run here.",
            hint=f"Use --opset {oldest if requested < oldest else limit}, or leave it out for {usual}.",
        )
    return requested


def require_opset(model: onnx_ir.Model, opset: int) -> None:
    """Convert a simplified graph to `opset` in place.

    torch.onnx captures at 18 and later; what is asked for below comes from onnxscript's version
    converter, which knows the operators of a simplified graph only.

    Raises:
        ExportError: an operator has no equivalent there.
    """
    from onnxscript import version_converter

    captured = model.opset_imports.get("")
    if opset < _AXES_ARE_INPUTS:
        _forget_new_defaults(model)
    if captured != opset:
        version_converter.convert_version(model, opset, fallback=True)
    if model.opset_imports.get("") != opset:
        raise ExportError(
            f"torch.onnx could not write opset {opset} for this model; it gave {captured}.",
            hint=f"Use --opset {captured}.",
        )


def _forget_new_defaults(model: onnx_ir.Model) -> None:
    """Attributes that opset 18 brought, where they say what older operators do anyway.

    Upstream (onnx 1.23): the converter of ReduceMean and its like makes an attribute of the axes and leaves
    noop_with_empty_axes where it is, which opset 17 does not know.
    """
    for node in model.graph.all_nodes():
        attribute = node.attributes.get(_NOOP)
        if node.op_type.startswith("Reduce") and attribute is not None and attribute.as_int() == 0:
            del node.attributes[_NOOP]
