"""The bytes of a lazy tensor in order, in blocks: no tensor is ever in memory whole.

A block is a piece of the tensor along one axis. `narrow` carries that piece through the record down
to the files: a piece of a cast is the cast of a piece, a piece of a transposed matrix is a strip of
columns, a piece of merged experts is a piece of one of them. What cannot be cut (a reshape that
mixes axes, as the permutation for rotary embeddings has) is computed whole, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from onnxport.weights.lazy import LazyTensor, evaluate, hold, record
from onnxport.weights.origins import Call, Held, Stored

# Smaller strips of a matrix touch each page of it more often (4 MiB: half as fast).
BLOCK_BYTES = 8 * 2**20

_aten = torch.ops.aten
_SAME = frozenset(
    {
        _aten.alias.default,
        _aten.detach.default,
        _aten.lift_fresh.default,
        _aten.clone.default,
        _aten._to_copy.default,
    }
)


def blocks(tensor: LazyTensor, axis: int = 0) -> Iterator[torch.Tensor]:
    """`tensor` in pieces of at most `BLOCK_BYTES` where it can be cut, in C order, each contiguous.

    Args:
        tensor: all axes before `axis` have length 1.
        axis: where to cut.
    """
    size = tensor.numel() * tensor.element_size()
    if size <= BLOCK_BYTES or axis == tensor.dim():
        yield evaluate(tensor).contiguous()
        return
    length = tensor.shape[axis]
    step = max(1, BLOCK_BYTES * length // size)
    if length > 1 and narrow(tensor, axis, 0, step) is None:
        tensor = hold(evaluate(tensor))
    for start in range(0, length, step):
        piece = narrow(tensor, axis, start, min(step, length - start)) if length > 1 else tensor
        assert piece is not None
        yield from blocks(piece, axis + 1) if step == 1 else (evaluate(piece).contiguous(),)


def narrow(tensor: LazyTensor, axis: int, start: int, length: int) -> LazyTensor | None:
    """`tensor.narrow(axis, start, length)` as a record that reads no more than it needs, or None."""
    origin = tensor.origin
    if isinstance(origin, Stored):
        return _narrow_stored(tensor, origin, axis, start, length)
    if isinstance(origin, Held):
        return hold(origin.tensor.narrow(axis, start, length), origin.name)
    return _narrow_call(tensor, origin, axis, start, length)


def _narrow_stored(tensor: LazyTensor, origin: Stored, axis: int, start: int, length: int) -> LazyTensor:
    if all(size == 1 for size in tensor.shape[:axis]):  # then the piece is one range of the file
        shape = (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :])
        stride = tensor.element_size()
        for size in tensor.shape[axis + 1 :]:
            stride *= size
        like = torch.empty(shape, dtype=tensor.dtype, device="meta")
        return LazyTensor(like, Stored(origin.path, origin.name, origin.begin + start * stride))
    strip = record(_aten.slice.Tensor, (tensor, axis, start, start + length))
    # Copied before anything else: transposing a strip in place of the file is five times slower.
    return record(_aten.clone.default, (strip,), {"memory_format": torch.contiguous_format})  # type: ignore[no-any-return]


def _narrow_call(tensor: LazyTensor, origin: Call, axis: int, start: int, length: int) -> LazyTensor | None:
    func, args = origin.operator, origin.args

    def again(inner: LazyTensor, inner_axis: int, *rest: Any, offset: int = 0) -> LazyTensor | None:
        piece = narrow(inner, inner_axis, offset + start, length)
        return None if piece is None else record(func, (piece, *rest), origin.kwargs)  # type: ignore[no-any-return]

    if func in _SAME:
        return again(args[0], axis, *args[1:])
    if func is _aten.t.default:
        return again(args[0], tensor.dim() - 1 - axis)
    if func is _aten.transpose.int:
        first, second = (dim % tensor.dim() for dim in args[1:3])
        return again(args[0], {first: second, second: first}.get(axis, axis), *args[1:])
    if func is _aten.permute.default:
        return again(args[0], args[1][axis] % tensor.dim(), *args[1:])
    if func is _aten.cat.default:
        return _narrow_cat(tensor, origin, axis, start, length)
    if func is _aten.stack.default:
        return _narrow_stack(tensor, origin, axis, start, length)
    if func is _aten.reshape.default:
        same_front = args[0].shape[: axis + 1] == tensor.shape[: axis + 1]
        piece = narrow(args[0], axis, start, length) if same_front else None
        shape = [*tensor.shape[:axis], length, *tensor.shape[axis + 1 :]]
        return None if piece is None else record(func, (piece, shape))  # type: ignore[no-any-return]
    if func in (_aten.slice.Tensor, _aten.split.Tensor, _aten.split_with_sizes.default):
        return _narrow_part(tensor, origin, axis, start, length)
    if func in (_aten.select.int, _aten.unbind.int):
        inner, dim, index = _selected(origin)
        one = narrow(inner, dim, index, 1)
        piece = None if one is None else narrow(one, axis + (axis >= dim), start, length)
        return None if piece is None else record(_aten.squeeze.dim, (piece, dim))  # type: ignore[no-any-return]
    if func is _aten.unsqueeze.default:
        dim = args[1] % tensor.dim()
        return tensor if axis == dim else again(args[0], axis - (axis > dim), dim)
    if func is _aten.squeeze.dim:
        dim = args[1] % args[0].dim()
        if args[0].shape[dim] != 1:  # nothing was squeezed; a piece of length 1 would be
            return narrow(args[0], axis, start, length)
        return again(args[0], axis + (axis >= dim), dim)
    return None


def _narrow_cat(tensor: LazyTensor, origin: Call, axis: int, start: int, length: int) -> LazyTensor | None:
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


def _narrow_stack(tensor: LazyTensor, origin: Call, axis: int, start: int, length: int) -> LazyTensor | None:
    parts: list[LazyTensor] = list(origin.args[0])
    dim = (origin.args[1] if len(origin.args) > 1 else origin.kwargs.get("dim", 0)) % tensor.dim()
    if axis == dim:
        return record(_aten.stack.default, (parts[start : start + length], dim))  # type: ignore[no-any-return]
    known = [piece for part in parts if (piece := narrow(part, axis - (axis > dim), start, length)) is not None]
    return None if len(known) < len(parts) else record(_aten.stack.default, (known, dim))


def _narrow_part(tensor: LazyTensor, origin: Call, axis: int, start: int, length: int) -> LazyTensor | None:
    """Of a slice or of one of the parts of a split: a piece of the same tensor, further on."""
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
    return None if piece is None else record(_aten.slice.Tensor, (piece, *part))  # type: ignore[no-any-return]


def _selected(origin: Call) -> tuple[LazyTensor, int, int]:
    """(tensor, axis, index) of a `select` or of one result of an `unbind`."""
    inner: LazyTensor = origin.args[0]
    if origin.operator is _aten.select.int:
        dim, index = origin.args[1] % inner.dim(), origin.args[2]
        return inner, dim, index % inner.shape[dim]
    dim = (origin.args[1] if len(origin.args) > 1 else origin.kwargs.get("dim", 0)) % inner.dim()
    return inner, dim, origin.index or 0
