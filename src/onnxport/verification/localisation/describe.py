"""A found difference as text."""

from __future__ import annotations

from onnxport.specs import Difference


def difference_lines(found: Difference) -> list[str]:
    r"""Where a graph begins to differ, in five lines; fewer where nothing was found.

    Example:
        >>> found = Difference("traced", {"batch_size": 2}, "encoder.0", "Linear", "node_1", "MatMul", "v", (2, 8),
        ...                    2e-7, 0.3)
        >>> print("\n".join(difference_lines(found)))
        first difference: encoder.0 (Linear)
          node: MatMul node_1, gives v (2, 8)
          case: traced, batch_size 2
          error relative to the scale: 2.0e-07 before, 3.0e-01 after
          fixes: none touched this node
    """
    sizes = ", ".join([found.case, *(f"{axis} {size}" for axis, size in found.sizes.items())])
    if not found.node and not found.value:
        return [f"first difference: not found ({sizes})", f"  {found.note}"]
    shape = ", ".join(map(str, found.shape))
    note = f"; {found.note}" if found.note else ""
    return [
        f"first difference: {found.module or 'the model itself'} ({found.kind})",
        f"  node: {found.operator} {found.node}, gives {found.value} ({shape})",
        f"  case: {sizes}",
        f"  error relative to the scale: {found.error_before:.1e} before, {found.error_after:.1e} after{note}",
        f"  fixes: {', '.join(found.fixes) or 'none touched this node'}",
    ]
