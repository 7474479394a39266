"""Choose the opset to write, and convert graphs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.errors import ExportError, UsageError

if TYPE_CHECKING:
    import onnx_ir

# torch.onnx writes opset 18 and newer, and onnxscript converts down from there. The converter cannot go below 17
# (LayerNormalization); it then returns opset 18 without an error.
OLDEST = 17
LOWEST_CAPTURED = 18
# Above 23, torch.onnx and onnxscript lose fused operators: with 24 RMSNormalization and RotaryEmbedding are decomposed,
# and with 25 ONNX Runtime 1.32 fuses nothing (MiniLM, 8 x 128 tokens: 97 ms instead of 84 ms). 23 is the newest opset
# that ONNX Runtime runs at full speed.
DEFAULT = 23
# tf2onnx 1.17 writes 13 to 18; onnxscript's converter goes above.
OLDEST_TENSORFLOW = 13
NEWEST_TENSORFLOW = 18
_NEWEST_OF_TORCH = 25
_AXES_ARE_INPUTS, _NOOP = 18, "noop_with_empty_axes"


def newest() -> int:
    """Return the newest opset that torch.onnx writes and the installed ONNX Runtime runs."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    known = max(schema.since_version for schema in get_all_operator_schema() if schema.domain in ("", "ai.onnx"))
    return min(int(known), _NEWEST_OF_TORCH)


def choose_opset(requested: int | None, framework: str = "pt") -> int:
    """Return the opset to write.

    Args:
        requested: opset that the user asked for, or None.
        framework: "pt" or "tf".

    Raises:
        UsageError: `requested` is outside of the range that can be written and run.
    """
    limit, oldest = newest(), OLDEST_TENSORFLOW if framework == "tf" else OLDEST
    usual = min(NEWEST_TENSORFLOW if framework == "tf" else DEFAULT, limit)
    if requested is None:
        return usual
    if not oldest <= requested <= limit:
        raise UsageError(
            f"Opset {requested} is not supported: use {oldest} to {limit}.",
            hint=f"Use --opset {oldest if requested < oldest else limit}, or omit it for {usual}.",
        )
    return requested


def require_opset(model: onnx_ir.Model, opset: int) -> None:
    """Convert a simplified graph to `opset`, in place.

    torch.onnx captures at 18 or newer. Older opsets come from onnxscript's version converter, which knows only the
    operators of a simplified graph.

    Args:
        model: a simplified graph.
        opset: the opset that is wanted.

    Raises:
        ExportError: an operator has no equivalent in `opset`.
    """
    from onnxscript import version_converter

    captured = model.opset_imports.get("")
    if opset < _AXES_ARE_INPUTS:
        _remove_new_attributes(model)
    if captured != opset:
        version_converter.convert_version(model, opset, fallback=True)
    if model.opset_imports.get("") != opset:
        raise ExportError(
            f"This model cannot be written with opset {opset}; torch.onnx wrote {captured}.",
            hint=f"Use --opset {captured}.",
        )


def _remove_new_attributes(model: onnx_ir.Model) -> None:
    """Remove attributes that opset 18 added, if they have the behaviour of older opsets.

    Upstream (onnx 1.23): the converter of ReduceMean and similar operators turns the axes into an attribute, but keeps
    noop_with_empty_axes, which opset 17 does not have.
    """
    for node in model.graph.all_nodes():
        attribute = node.attributes.get(_NOOP)
        if node.op_type.startswith("Reduce") and attribute is not None and attribute.as_int() == 0:
            del node.attributes[_NOOP]
