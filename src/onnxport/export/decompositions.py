"""Skip the second trace of torch.onnx where it would only rename operators.

Upstream (torch 2.13): `torch.onnx.export` runs the exported program once more on fake tensors to decompose operators
without a translation, also if there are none. That took a quarter of the time of a decoder's export. A program is
exported without it if every operator has a translation, nothing is written in place and there are no subgraphs; a few
operators are first replaced by equivalents, as the trace would do. All other programs take the second trace, and so
does a program that torch.onnx then fails on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Replace = Callable[[torch.fx.Graph, torch.fx.Node], None]


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
        if not has_translations(program, translated):
            return original(program, registry)
        not_decomposed.append(program)
        return program

    _fx_passes.decompose_with_registry = decompose
    try:
        yield not_decomposed
    finally:
        _fx_passes.decompose_with_registry = original


def has_translations(program: torch.export.ExportedProgram, translated: set[Any]) -> bool:
    """Return whether all operators of `program` have a translation; if so, equivalents are replaced in place.

    Args:
        program: an exported program.
        translated: operators and Python functions that have a translation.
    """
    signature, graph = program.graph_signature, program.graph_module.graph
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        return False
    equivalents = _equivalents()
    replacements = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if not _has_translation(node, translated, equivalents.get(node.target)):
            return False
        if node.target in equivalents:
            replacements.append((node, equivalents[node.target]))
    for node, replace in replacements:
        replace(graph, node)
    program.graph_module.recompile()
    return True


def _has_translation(node: torch.fx.Node, translated: set[Any], equivalent: Replace | None) -> bool:
    """Return whether torch.onnx translates the node, or the equivalent that replaces it."""
    import torch

    if node.op != "call_function":
        return False  # a subgraph
    if "val" not in node.meta:
        return False  # inserted after the trace: its result is known only after another trace
    if equivalent is not None:
        return equivalent is not _to_cast or _is_safe_cast(node)
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        return False
    return node.target in translated or node.target in _checks()


def _is_safe_cast(node: torch.fx.Node) -> bool:
    """Return whether a conversion can be replaced by a cast, or removed."""
    if not _is_plain_conversion(node):
        return False
    # The program's signature refers to its outputs by name, so a node that is one must not be removed.
    return not (_keeps_type(node) and any(user.op == "output" for user in node.users))


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


def _equivalents() -> dict[Any, Replace]:
    """Return operators that equal another one by definition, with a function that replaces them."""
    import torch

    aten = torch.ops.aten

    def named(target: Any) -> Replace:
        def rename(_: torch.fx.Graph, node: torch.fx.Node) -> None:
            node.target = target

        return rename

    return {
        aten.reshape.default: _to_view,
        aten.view.default: _to_view,
        aten.__and__.Tensor: named(aten.bitwise_and.Tensor),
        aten.__or__.Tensor: named(aten.bitwise_or.Tensor),
        aten.min.other: named(aten.minimum.default),
        aten.max.other: named(aten.maximum.default),
        aten.contiguous.default: _to_clone,
        aten.to.dtype: _to_cast,
        aten.to.dtype_layout: _to_cast,
        aten.to.device: _to_cast,
    }


def _to_view(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Replace a reshape by a view, of a copy if the tensor is not contiguous.

    A -1 becomes a number if the size is static: two reshapes in a row are merged only if their sizes are known.
    """
    import torch

    source, sizes = node.args
    assert isinstance(source, torch.fx.Node)
    if not source.meta["val"].is_contiguous():
        with graph.inserting_before(node):
            copy = graph.call_function(torch.ops.aten.clone.default, (source,), _contiguous_format())
        copy.meta["val"] = source.meta["val"].clone(**_contiguous_format())
        source = copy
    made = node.meta["val"].shape
    translated = [
        size if isinstance(size, torch.fx.Node) or size != -1 or not isinstance(length, int) else length
        for size, length in zip(sizes, made, strict=True)
    ]
    node.target, node.args = torch.ops.aten.view.default, (source, translated)


def _to_clone(_: torch.fx.Graph, node: torch.fx.Node) -> None:
    import torch

    node.target, node.args, node.kwargs = torch.ops.aten.clone.default, (node.all_input_nodes[0],), _contiguous_format()


def _contiguous_format() -> dict[str, Any]:
    import torch

    return {"memory_format": torch.contiguous_format}


def _remove(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])
    graph.erase_node(node)


def _is_plain_conversion(node: torch.fx.Node) -> bool:
    """Return whether a tensor is only cast, and stays on its device."""
    before, after = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    return before is not None and after is not None and before.device == after.device


def _keeps_type(node: torch.fx.Node) -> bool:
    return bool(node.all_input_nodes[0].meta["val"].dtype == node.meta["val"].dtype)


def _to_cast(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Replace a conversion by a cast, or remove it if the type is the same."""
    import torch

    source = node.all_input_nodes[0]
    if _keeps_type(node):
        _remove(graph, node)
        return
    node.target = torch.ops.aten._to_copy.default
    node.args, node.kwargs = (source,), {"dtype": node.meta["val"].dtype}
