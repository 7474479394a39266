"""Compute the bytes of a lazy tensor in order, in blocks, so that no tensor is ever in memory completely.

A block is a slice of the tensor along one axis. `narrow` passes the slice through the record down to the files: a slice
of a cast is the cast of a slice, a slice of a transposed matrix is a strip of columns, a slice of merged experts is a
slice of one of them. A tensor that cannot be sliced (a reshape that mixes axes, as in the permutation for rotary
embeddings) is computed completely, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from onnxport.weights.lazy import LazyTensor, evaluate, in_memory, record
from onnxport.weights.origins import InMemory, Operation, Stored

# Smaller strips of a matrix read each page more often (4 MiB: half as fast).
BLOCK_BYTES = 8 * 2**20

_aten = torch.ops.aten
_ELEMENTWISE = frozenset(
    {
        _aten.alias.default,
        _aten.detach.default,
        _aten.lift_fresh.default,
        _aten.clone.default,
        _aten._to_copy.default,
    }
)


def blocks(tensor: LazyTensor, axis: int = 0) -> Iterator[torch.Tensor]:
    """Yield `tensor` in contiguous blocks of at most `BLOCK_BYTES` if it can be sliced, in C order.

    Args:
        tensor: all axes before `axis` have length 1.
        axis: the axis to slice.
    """
    size = tensor.numel() * tensor.element_size()
    if size <= BLOCK_BYTES or axis == tensor.dim():
        yield evaluate(tensor).contiguous()
        return
    length = tensor.shape[axis]
    step = max(1, BLOCK_BYTES * length // size)
    if length > 1 and narrow(tensor, axis, 0, step) is None:
        tensor = in_memory(evaluate(tensor))
    for start in range(0, length, step):
        piece = narrow(tensor, axis, start, min(step, length - start)) if length > 1 else tensor
        assert piece is not None
        yield from blocks(piece, axis + 1) if step == 1 else (evaluate(piece).contiguous(),)


def narrow(tensor: LazyTensor, axis: int, start: int, length: int) -> LazyTensor | None:
    """Return `tensor.narrow(axis, start, length)` as a record that reads only what it needs, or None.

    Args:
        tensor: a lazy tensor.
        axis: the axis to slice.
        start: first index.
        length: number of indices.
    """
    origin = tensor.origin
    if isinstance(origin, Stored):
        return _narrow_stored(tensor, origin, axis, start, length)
    if isinstance(origin, InMemory):
        return in_memory(origin.tensor.narrow(axis, start, length), origin.name)
    return _narrow_operation(tensor, origin, axis, start, length)


def _narrow_stored(tensor: LazyTensor, origin: Stored, axis: int, start: int, length: int) -> LazyTensor:
    if all(size == 1 for size in tensor.shape[:axis]):  # then the slice is one range of the file
        shape = (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :])
        stride = tensor.element_size()
        for size in tensor.shape[axis + 1 :]:
            stride *= size
        like = torch.empty(shape, dtype=tensor.dtype, device="meta")
        return LazyTensor(like, Stored(origin.path, origin.name, origin.begin + start * stride))
    strip = record(_aten.slice.Tensor, (tensor, axis, start, start + length))
    # Copied first: transposing a strip of a mapped file is five times slower.
    copy: LazyTensor = record(_aten.clone.default, (strip,), {"memory_format": torch.contiguous_format})
    return copy


def _narrow_operation(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    rule = _RULES.get(origin.operator)
    return None if rule is None else rule(tensor, origin, axis, start, length)


def _replay(origin: Operation, axis: int, start: int, length: int, *args: Any) -> LazyTensor | None:
    """Apply the operator, with other arguments `args`, to a slice of its first argument."""
    inner = narrow(origin.args[0], axis, start, length)
    return None if inner is None else record(origin.operator, (inner, *args), origin.kwargs)


def _narrow_elementwise(_: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    return _replay(origin, axis, start, length, *origin.args[1:])


def _narrow_t(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    return _replay(origin, tensor.dim() - 1 - axis, start, length)


def _narrow_transpose(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    first, second = (dim % tensor.dim() for dim in origin.args[1:3])
    inner_axis = {first: second, second: first}.get(axis, axis)
    return _replay(origin, inner_axis, start, length, *origin.args[1:])


def _narrow_permute(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    return _replay(origin, origin.args[1][axis] % tensor.dim(), start, length, *origin.args[1:])


def _narrow_reshape(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    """Only if all axes up to `axis` are unchanged."""
    inner: LazyTensor = origin.args[0]
    if inner.shape[: axis + 1] != tensor.shape[: axis + 1]:
        return None
    piece = narrow(inner, axis, start, length)
    shape = [*tensor.shape[:axis], length, *tensor.shape[axis + 1 :]]
    return None if piece is None else record(origin.operator, (piece, shape))


def _narrow_arithmetic(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    """Of tensors of one shape, and numbers."""
    pieces: list[Any] = []
    for arg in origin.args:
        if isinstance(arg, LazyTensor):
            arg = narrow(arg, axis, start, length) if arg.shape == tensor.shape else None
            if arg is None:
                return None
        pieces.append(arg)
    result: LazyTensor = record(origin.operator, tuple(pieces), origin.kwargs)
    return result


def _narrow_product(_: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    """Rows of a product are of the first matrix, columns of the second."""
    factors: list[LazyTensor] = list(origin.args)
    piece = narrow(factors[axis], axis, start, length)
    if piece is None:
        return None
    factors[axis] = piece
    product: LazyTensor = record(origin.operator, tuple(factors))
    return product


def _narrow_select(_: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    inner, dim, index = _selected(origin)
    one = narrow(inner, dim, index, 1)
    piece = None if one is None else narrow(one, axis + (axis >= dim), start, length)
    return None if piece is None else record(_aten.squeeze.dim, (piece, dim))


def _narrow_unsqueeze(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    dim = origin.args[1] % tensor.dim()
    return tensor if axis == dim else _replay(origin, axis - (axis > dim), start, length, dim)


def _narrow_squeeze(_: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    inner: LazyTensor = origin.args[0]
    dim = origin.args[1] % inner.dim()
    if inner.shape[dim] != 1:  # nothing was squeezed, but a slice of length 1 would be
        return narrow(inner, axis, start, length)
    return _replay(origin, axis + (axis >= dim), start, length, dim)


def _narrow_cat(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    parts: list[LazyTensor] = list(origin.args[0])
    dim = (origin.args[1] if len(origin.args) > 1 else origin.kwargs.get("dim", 0)) % tensor.dim()
    pieces: list[LazyTensor | None] = []
    if axis != dim:
        pieces = [narrow(part, axis, start, length) for part in parts]
    else:
        position = 0
        for part in parts:
            begin, end = max(start, position), min(start + length, position + part.shape[dim])
            if begin < end:
                pieces.append(narrow(part, dim, begin - position, end - begin))
            position += part.shape[dim]
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces):
        return None
    return known[0] if len(known) == 1 else record(_aten.cat.default, (known, dim))


def _narrow_stack(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    parts: list[LazyTensor] = list(origin.args[0])
    dim = (origin.args[1] if len(origin.args) > 1 else origin.kwargs.get("dim", 0)) % tensor.dim()
    if axis == dim:
        known = parts[start : start + length]
    else:
        known = [piece for part in parts if (piece := narrow(part, axis - (axis > dim), start, length)) is not None]
        if len(known) < len(parts):
            return None
    stacked: LazyTensor = record(_aten.stack.default, (known, dim))
    return stacked


def _narrow_slice(tensor: LazyTensor, origin: Operation, axis: int, start: int, length: int) -> LazyTensor | None:
    """Slice the result of a slice or split: a slice of the same tensor with an offset."""
    inner: LazyTensor = origin.args[0]
    if origin.operator is _aten.slice.Tensor:
        defaults: tuple[Any, ...] = (None, 0, None, None, 1)
        _, dim, begin, _, step = (*origin.args, *defaults[len(origin.args) :])
        dim, begin = dim % inner.dim(), begin or 0
        begin = max(0, begin + inner.shape[dim]) if begin < 0 else begin
        if step != 1:
            return None
    else:
        index = origin.index or 0
        dim = (origin.args[2] if len(origin.args) > 2 else origin.kwargs.get("dim", 0)) % inner.dim()
        sizes = origin.args[1]
        begin = index * sizes if isinstance(sizes, int) else sum(sizes[:index])
    if axis == dim:
        return narrow(inner, axis, begin + start, length)
    piece = narrow(inner, axis, start, length)
    part = (dim, begin, begin + tensor.shape[dim])
    return None if piece is None else record(_aten.slice.Tensor, (piece, *part))


def _selected(origin: Operation) -> tuple[LazyTensor, int, int]:
    """Return (tensor, axis, index) of a `select`, or of one result of an `unbind`."""
    inner: LazyTensor = origin.args[0]
    if origin.operator is _aten.select.int:
        dim, index = origin.args[1] % inner.dim(), origin.args[2]
        return inner, dim, index % inner.shape[dim]
    dim = (origin.args[1] if len(origin.args) > 1 else origin.kwargs.get("dim", 0)) % inner.dim()
    return inner, dim, origin.index or 0


_Rule = Callable[[LazyTensor, Operation, int, int, int], LazyTensor | None]
# How a slice of an operator's result follows from slices of its arguments.
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _narrow_elementwise),
    **dict.fromkeys((_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor), _narrow_arithmetic),
    _aten.mm.default: _narrow_product,
    _aten.t.default: _narrow_t,
    _aten.transpose.int: _narrow_transpose,
    _aten.permute.default: _narrow_permute,
    _aten.cat.default: _narrow_cat,
    _aten.stack.default: _narrow_stack,
    _aten.reshape.default: _narrow_reshape,
    _aten.slice.Tensor: _narrow_slice,
    _aten.split.Tensor: _narrow_slice,
    _aten.split_with_sizes.default: _narrow_slice,
    _aten.select.int: _narrow_select,
    _aten.unbind.int: _narrow_select,
    _aten.unsqueeze.default: _narrow_unsqueeze,
    _aten.squeeze.dim: _narrow_squeeze,
}
