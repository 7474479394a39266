"""Operators that equal others by definition, for which torch.onnx has a translation.

torch.onnx finds these by running the program once more (`export/decompositions.py`). Each rule here looks at one node
of an exported program, and gives the function that replaces it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Replace = Callable[[torch.fx.Graph, torch.fx.Node], None]
    Rule = Callable[[torch.fx.Node, set[Any]], Replace | None]


def find_equivalent(node: torch.fx.Node, translated: set[Any]) -> Replace | None:
    """Return the function that replaces `node`, or None if no rule applies to it.

    Args:
        node: of an exported program.
        translated: operators that torch.onnx has a translation for.
    """
    import torch

    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    rule = _rules().get(node.target)
    if rule is not None:
        return rule(node, translated)
    return _without_writing(node, translated) if node.target._schema.is_mutable else None


def _rules() -> dict[Any, Rule]:
    import torch

    aten = torch.ops.aten

    def always(replace: Replace) -> Rule:
        return lambda node, _: replace if "val" in node.meta else None

    def named(target: Any) -> Rule:
        def rename(_: torch.fx.Graph, node: torch.fx.Node) -> None:
            node.target = target

        return always(rename)

    return {
        aten.reshape.default: always(_to_view),
        aten.view.default: always(_to_view),
        aten.__and__.Tensor: named(aten.bitwise_and.Tensor),
        aten.__or__.Tensor: named(aten.bitwise_or.Tensor),
        aten.min.other: named(aten.minimum.default),
        aten.max.other: named(aten.maximum.default),
        aten.contiguous.default: always(_to_clone),
        aten.to.dtype: _safe_cast,
        aten.to.dtype_layout: _safe_cast,
        aten.to.device: _safe_cast,
        aten.detach.default: _identity,
        aten.detach_.default: _identity,
        aten.batch_norm.default: _batch_norm_of_inference,
        aten.adaptive_avg_pool2d.default: _mean_of_an_image,
        aten.conv1d.padding: _without_padding,
        aten.conv2d.padding: _without_padding,
        aten._weight_norm.default: _weight_over_its_norm,
    }


def _safe_cast(node: torch.fx.Node, _: set[Any]) -> Replace | None:
    """A conversion of a tensor that stays on its device is a cast, or nothing."""
    before, after = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    if before is None or after is None or before.device != after.device:
        return None
    return None if _keeps_type(node) and _is_output(node) else _to_cast


def _identity(node: torch.fx.Node, _: set[Any]) -> Replace | None:
    return None if _is_output(node) else _remove


def _is_output(node: torch.fx.Node) -> bool:
    """Return whether the program gives this value: its signature refers to it by name, so the node must stay."""
    return any(user.op == "output" for user in node.users)


def _batch_norm_of_inference(node: torch.fx.Node, translated: set[Any]) -> Replace | None:
    """Batch normalization by the running mean and variance; `training` is the sixth argument."""
    import torch

    target = torch.ops.aten._native_batch_norm_legit_no_training.default
    mean, variance, training = node.args[3:6]
    if training or mean is None or variance is None or "val" not in node.meta or target not in translated:
        return None

    def replace(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
        values, weight, bias, mean, variance, _, momentum, epsilon, _ = node.args
        with graph.inserting_before(node):
            normed = graph.call_function(target, (values, weight, bias, mean, variance, momentum, epsilon))
        unused = node.meta["val"].new_empty((0,))
        normed.meta["val"] = (node.meta["val"], unused, unused)
        node.target, node.args = operator.getitem, (normed, 0)

    return replace


def _mean_of_an_image(node: torch.fx.Node, translated: set[Any]) -> Replace | None:
    """Pooling to a single pixel is a mean."""
    import torch

    target = torch.ops.aten.mean.dim
    if list(node.args[1]) != [1, 1] or "val" not in node.meta or target not in translated:  # type: ignore[arg-type]
        return None

    def replace(_: torch.fx.Graph, node: torch.fx.Node) -> None:
        node.target, node.args = target, (node.args[0], [-1, -2], True)

    return replace


def _weight_over_its_norm(node: torch.fx.Node, translated: set[Any]) -> Replace | None:
    """`_weight_norm(v, g, dim)` is v * (g / norm of v over the other axes), as `torch.nn.utils.weight_norm` defines."""
    import torch

    aten = torch.ops.aten
    norm, divide, multiply = aten.linalg_vector_norm.default, aten.div.Tensor, aten.mul.Tensor
    direction, scale, axis = _all_arguments(node)
    value = direction.meta.get("val")
    if value is None or "val" not in node.meta or not {norm, divide, multiply} <= translated:
        return None
    others = [one for one in range(value.dim()) if one != axis % value.dim()]

    def replace(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
        with graph.inserting_before(node):
            length = graph.call_function(norm, (direction, 2, others, True))
            length.meta["val"] = norm(value, 2, others, True)
            ratio = graph.call_function(divide, (scale, length))
            ratio.meta["val"] = divide(scale.meta["val"], length.meta["val"])
        node.target, node.args, node.kwargs = multiply, (direction, ratio), {}

    return replace


def _without_padding(node: torch.fx.Node, translated: set[Any]) -> Replace | None:
    """A convolution whose padding is the word "valid"."""
    import torch

    values, weight, bias, stride, padding, dilation, groups = _all_arguments(node)
    one_axis = node.target is torch.ops.aten.conv1d.padding
    target = torch.ops.aten.conv1d.default if one_axis else torch.ops.aten.conv2d.default
    if padding != "valid" or "val" not in node.meta or target not in translated:
        return None

    def replace(_: torch.fx.Graph, node: torch.fx.Node) -> None:
        none = [0] if one_axis else [0, 0]
        node.target, node.args, node.kwargs = target, (values, weight, bias, stride, none, dilation, groups), {}

    return replace


def _all_arguments(node: torch.fx.Node) -> list[Any]:
    """Arguments of a node in the order of its operator's schema, with their defaults."""
    assert not isinstance(node.target, str)
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
    return [given.get(argument.name, argument.default_value) for argument in schema]


def _without_writing(node: torch.fx.Node, translated: set[Any]) -> Replace | None:
    """`add_` is `add` where nothing else sees the memory that it writes to."""
    target = _functional(node)
    if target not in translated or not _has_one_type(node) or not _writes_to_its_own(node, translated):
        return None

    def replace(_: torch.fx.Graph, node: torch.fx.Node) -> None:
        node.target = target

    return replace


def _functional(node: torch.fx.Node) -> Any:
    """The operator of the same overload that gives a new tensor, or None."""
    import torch

    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    if not schema.name.endswith("_") or not written[0] or any(written[1:]) or node.target.namespace != "aten":
        return None
    packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::").removesuffix("_"), None)
    return getattr(packet, node.target._overloadname, None)


def _has_one_type(node: torch.fx.Node) -> bool:
    """Return whether all tensors have the result's type: a new tensor would have the type that they promote to."""
    values = [one.meta.get("val") for one in (node, *node.all_input_nodes)]
    return all(value is not None for value in values) and len({getattr(value, "dtype", None) for value in values}) == 1


def _writes_to_its_own(node: torch.fx.Node, translated: set[Any]) -> bool:
    """Return whether the tensor that is written to is a new one, and is not read again but through the result."""
    import torch

    changed = node.args[0]
    if not isinstance(changed, torch.fx.Node) or not isinstance(changed.target, torch._ops.OpOverload):
        return False
    if changed.target._schema.is_mutable:
        if _without_writing(changed, translated) is None:
            return False
    elif _shares_memory(changed):
        return False
    before = set()
    for one in node.graph.nodes:
        if one is node:
            break
        before.add(one)
    others = [user for user in changed.users if user is not node]
    return all(user in before and not _shares_memory(user) for user in others)


def _shares_memory(node: torch.fx.Node) -> bool:
    """Return whether the result may be memory of an argument.

    The dispatcher holds kernels to what their schema says of memory. A composite operator may call what it likes:
    `dropout` gives its argument itself where it has nothing to do.
    """
    import torch

    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    aten = torch.ops.aten
    layers = (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.linear.default, aten.matmul.default,
              aten.batch_norm.default, aten.layer_norm.default, aten.group_norm.default)  # fmt: skip
    if target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd) and target not in layers:
        return True
    return any(value.alias_info is not None for value in target._schema.returns)


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
