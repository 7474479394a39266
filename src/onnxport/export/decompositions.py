"""Leave out torch.onnx's second trace where it would change nothing but names of operators.

Upstream (torch 2.13): `torch.onnx.export` runs the whole exported program once more on fake tensors to
decompose operators that it cannot translate, also where there are none; that took a quarter of a decoder's
export. A program in which every operator has a translation, nothing is written in place and no graph lies
inside another is translated as it is, once the few spellings that the trace would have resolved are replaced.
Every other program takes the second trace; so does, by another export, one that torch.onnx fails on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def decomposed_where_needed() -> Iterator[list[Any]]:
    """While torch.onnx exports: the second trace only for programs that need one.

    Yields:
        The programs that took none, so far.
    """
    left_alone: list[Any] = []
    try:
        from torch.onnx._internal.exporter import _fx_passes
    except ImportError:  # another torch: slower, not wrong
        yield left_alone
        return
    original = getattr(_fx_passes, "decompose_with_registry", None)
    if original is None:
        yield left_alone
        return

    def decompose(program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        known = {meanings[0].fx_target for meanings in registry.functions.values()}
        if not translatable(program, known):
            return original(program, registry)
        left_alone.append(program)
        return program

    _fx_passes.decompose_with_registry = decompose
    try:
        yield left_alone
    finally:
        _fx_passes.decompose_with_registry = original


def translatable(program: torch.export.ExportedProgram, known: set[Any]) -> bool:
    """Whether all of `program` has a translation; spellings are replaced in place only if so.

    Args:
        known: operators and Python functions that have one.
    """
    import torch

    signature, graph = program.graph_signature, program.graph_module.graph
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        return False
    spelled = []
    for node in graph.nodes:
        if node.op != "call_function":
            if node.op not in ("placeholder", "output"):
                return False  # another graph inside of this one
            continue
        if "val" not in node.meta:
            return False  # put in after the trace: only another one says what it gives
        respell = _spellings().get(node.target)
        if respell is not None:
            if respell is _converted and not _is_plain_conversion(node):
                return False
            if respell is _converted and _keeps_type(node) and any(user.op == "output" for user in node.users):
                return False  # the program's signature knows it by its name
            spelled.append((node, respell))
            continue
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            return False
        if node.target not in known and node.target not in _dropped():
            return False
    for node, respell in spelled:
        respell(graph, node)
    program.graph_module.recompile()
    return True


def _dropped() -> frozenset[Any]:
    """Checks, which torch.onnx takes out before it translates."""
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


def _spellings() -> dict[Any, Callable[[torch.fx.Graph, torch.fx.Node], None]]:
    """Operators that are another one by definition, and their replacement."""
    import torch

    aten = torch.ops.aten

    def named(target: Any) -> Callable[[torch.fx.Graph, torch.fx.Node], None]:
        def rename(_: torch.fx.Graph, node: torch.fx.Node) -> None:
            node.target = target

        return rename

    return {
        aten.reshape.default: _reshaped,
        aten.view.default: _reshaped,
        aten.__and__.Tensor: named(aten.bitwise_and.Tensor),
        aten.__or__.Tensor: named(aten.bitwise_or.Tensor),
        aten.contiguous.default: _copied,
        aten.to.dtype: _converted,
        aten.to.dtype_layout: _converted,
        aten.to.device: _converted,
    }


def _reshaped(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """A view, of a copy where a tensor's numbers do not lie in order.

    Its -1 is a number where it is one: two reshapes in a row are one only if their sizes are known.
    """
    import torch

    source, sizes = node.args
    assert isinstance(source, torch.fx.Node)
    if not source.meta["val"].is_contiguous():
        with graph.inserting_before(node):
            copy = graph.call_function(torch.ops.aten.clone.default, (source,), _in_order())
        copy.meta["val"] = source.meta["val"].clone(**_in_order())
        source = copy
    made = node.meta["val"].shape
    known = [
        size if isinstance(size, torch.fx.Node) or size != -1 or not isinstance(length, int) else length
        for size, length in zip(sizes, made, strict=True)
    ]
    node.target, node.args = torch.ops.aten.view.default, (source, known)


def _copied(_: torch.fx.Graph, node: torch.fx.Node) -> None:
    import torch

    node.target, node.args, node.kwargs = torch.ops.aten.clone.default, (node.all_input_nodes[0],), _in_order()


def _in_order() -> dict[str, Any]:
    import torch

    return {"memory_format": torch.contiguous_format}


def _removed(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])
    graph.erase_node(node)


def _is_plain_conversion(node: torch.fx.Node) -> bool:
    """Whether a tensor comes from a tensor on the same device: nothing moves, at most numbers are cast."""
    before, after = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    return before is not None and after is not None and before.device == after.device


def _keeps_type(node: torch.fx.Node) -> bool:
    return bool(node.all_input_nodes[0].meta["val"].dtype == node.meta["val"].dtype)


def _converted(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """A cast, or nothing where the type is the same."""
    import torch

    source = node.all_input_nodes[0]
    if _keeps_type(node):
        _removed(graph, node)
        return
    node.target = torch.ops.aten._to_copy.default
    node.args, node.kwargs = (source,), {"dtype": node.meta["val"].dtype}
