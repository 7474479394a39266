"""Skip the second trace of torch.onnx where it would only rename operators.

Upstream (torch 2.13): `torch.onnx.export` runs the exported program once more on fake tensors to decompose operators
without a translation, also if there are none. That took a quarter of the time of a decoder's export. A program is
exported without it if every operator has a translation, or an equivalent that has one (`export/equivalents.py`), and
there are no subgraphs. All other programs take the second trace, and so
does a program that torch.onnx then fails on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.export.equivalents import find_equivalent
from onnxport.export.known_values import compute_known_values
from onnxport.system.replaced import replaced

if TYPE_CHECKING:
    import torch


@contextmanager
def decompose_where_needed() -> Iterator[list[Any]]:
    """Decompose only programs that need it, while torch.onnx exports.

    Yields:
        The programs that were not decomposed so far.
    """
    not_decomposed: list[Any] = []
    try:
        from torch.onnx._internal.exporter import _fx_passes
    except ImportError:  # another version of torch is only slower
        yield not_decomposed
        return
    original = getattr(_fx_passes, "decompose_with_registry", None)
    if original is None:
        yield not_decomposed
        return

    def decompose(program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        translated = {meanings[0].fx_target for meanings in registry.functions.values()}
        compute_known_values(program, translated)
        if not has_translations(program, translated):
            return original(program, registry)
        not_decomposed.append(program)
        return program

    with replaced(_fx_passes, "decompose_with_registry", decompose):
        yield not_decomposed


def has_translations(program: torch.export.ExportedProgram, translated: set[Any]) -> bool:
    """Return whether all operators of `program` have a translation; if so, equivalents are replaced in place.

    Args:
        program: an exported program.
        translated: operators and Python functions that have a translation.
    """
    signature, graph = program.graph_signature, program.graph_module.graph
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        return False
    replacements = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        replace = find_equivalent(node, translated)
        if replace is not None:
            replacements.append((node, replace))
        elif not _has_translation(node, translated):
            return False
    for node, replace in replacements:
        replace(graph, node)
    program.graph_module.recompile()
    return True


def _has_translation(node: torch.fx.Node, translated: set[Any]) -> bool:
    import torch

    if node.op != "call_function":
        return False  # a subgraph
    if "val" not in node.meta:
        return False  # inserted after the trace: its result is known only after another trace
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        return False
    return node.target in translated or node.target in _checks()


def _checks() -> frozenset[Any]:
    """Return assertion operators, which torch.onnx removes before it translates."""
    import torch

    aten = torch.ops.aten
    return frozenset(
        {
            aten.sym_constrain_range_for_size.default,
            aten._assert_async.default,
            aten._assert_async.msg,
            aten._assert_scalar.default,
            aten._assert_tensor_metadata.default,
        }
    )
