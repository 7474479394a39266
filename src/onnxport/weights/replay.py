"""Compute parts of a recorded weight from the checkpoint's bytes, apart from the code that writes weights.

`blocks` computes the same values for the writer. The ledger of weights must not share its rules: each operator is
applied here to a part of its argument that is found by following indices back to the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from onnxport.weights.dequantize import Dequantize
from onnxport.weights.dequantized_again import dequantized_again
from onnxport.weights.lazy import LazyTensor
from onnxport.weights.origins import InMemory, Operation, Stored

_aten = torch.ops.aten
_BLOCK_BYTES = 8 * 2**20
_SAME = frozenset({_aten.alias.default, _aten.detach.default, _aten.lift_fresh.default, _aten.clone.default})

# The whole tensor of a leaf of a record.
Leaf = Callable[[Stored | InMemory, LazyTensor], torch.Tensor]
# First index and number of indices, for each axis.
Ranges = tuple[tuple[int, int], ...]


def replayed_blocks(tensor: LazyTensor, leaf: Leaf) -> Iterator[torch.Tensor]:
    """Yield the values of `tensor` in C order, in contiguous blocks of about 8 MiB.

    Args:
        tensor: a recorded weight.
        leaf: returns the whole tensor of a place in a file, or in memory.
    """
    whole: Ranges = tuple((0, int(size)) for size in tensor.shape)
    kept: dict[int, torch.Tensor] = {}
    for ranges in _split(whole, 0, tensor.element_size()):
        yield _part(tensor, ranges, leaf, kept).contiguous()


def _split(ranges: Ranges, axis: int, item: int) -> Iterator[Ranges]:
    size = item
    for _, length in ranges:
        size *= length
    if size <= _BLOCK_BYTES or axis == len(ranges):
        yield ranges
        return
    begin, length = ranges[axis]
    step = max(1, _BLOCK_BYTES * length // size)
    for start in range(begin, begin + length, step):
        part = (*ranges[:axis], (start, min(step, begin + length - start)), *ranges[axis + 1 :])
        yield from _split(part, axis + 1, item) if step == 1 else (part,)


def _part(tensor: LazyTensor, ranges: Ranges, leaf: Leaf, kept: dict[int, torch.Tensor]) -> torch.Tensor:
    origin = tensor.origin
    if not isinstance(origin, Operation):
        return _cut(leaf(origin, tensor), ranges)
    operator, first = origin.operator, origin.args[0]

    def inner(wanted: LazyTensor, parts: Ranges) -> torch.Tensor:
        return _part(wanted, parts, leaf, kept)

    if operator in _SAME:
        return inner(first, ranges)
    if operator is _aten._to_copy.default:
        return inner(first, ranges).to(tensor.dtype)
    if operator in (_aten.cat.default, _aten.stack.default):
        return _joined(tensor, origin, ranges, inner)
    order = _order(origin)
    if order is not None:
        back: list[tuple[int, int]] = [(0, 0)] * len(order)
        for place, axis in enumerate(order):
            back[axis] = ranges[place]
        return inner(first, tuple(back)).permute(order)
    chosen = _chosen(origin, ranges)
    if chosen is not None:
        parts, shape = chosen
        return inner(first, parts).reshape(shape)
    # An operator that mixes axes or computes: the whole arguments, computed once.
    if id(tensor) not in kept:
        whole = [
            inner(arg, tuple((0, int(size)) for size in arg.shape)) if isinstance(arg, LazyTensor) else arg
            for arg in origin.args
        ]
        if isinstance(operator, Dequantize):
            result = dequantized_again(operator.weight, dict(zip(operator.weight.parts, whole, strict=True)))
        else:
            result = operator(*whole, **origin.kwargs)
        kept[id(tensor)] = result if origin.index is None else result[origin.index]
    return _cut(kept[id(tensor)], ranges)


def _cut(tensor: torch.Tensor, ranges: Ranges) -> torch.Tensor:
    return tensor[tuple(slice(begin, begin + length) for begin, length in ranges)] if ranges else tensor


def _argument(origin: Operation, place: int, name: str, default: Any) -> Any:
    return origin.args[place] if len(origin.args) > place else origin.kwargs.get(name, default)


def _joined(
    tensor: LazyTensor, origin: Operation, ranges: Ranges, inner: Callable[[LazyTensor, Ranges], torch.Tensor]
) -> torch.Tensor:
    axis = _argument(origin, 1, "dim", 0) % tensor.dim()
    begin, length = ranges[axis]
    if origin.operator is _aten.stack.default:
        rest = (*ranges[:axis], *ranges[axis + 1 :])
        return torch.stack([inner(part, rest) for part in origin.args[0][begin : begin + length]], axis)
    pieces, position = [], 0
    for part in origin.args[0]:
        size = int(part.shape[axis])
        first, last = max(begin, position), min(begin + length, position + size)
        if first < last:
            pieces.append(inner(part, (*ranges[:axis], (first - position, last - first), *ranges[axis + 1 :])))
        position += size
    return torch.cat(pieces, axis)


def _order(origin: Operation) -> list[int] | None:
    """The order of axes of an operator that only permutes them."""
    rank = origin.args[0].dim()
    if origin.operator is _aten.t.default:
        return list(range(rank))[::-1]
    if origin.operator is _aten.transpose.int:
        order = list(range(rank))
        one, other = origin.args[1] % rank, origin.args[2] % rank
        order[one], order[other] = order[other], order[one]
        return order
    if origin.operator is _aten.permute.default:
        return [axis % rank for axis in origin.args[1]]
    return None


def _chosen(origin: Operation, ranges: Ranges) -> tuple[Ranges, list[int]] | None:
    """(ranges of the argument, shape of the result) of an operator that takes a part of it, or adds or drops axes."""
    operator, first = origin.operator, origin.args[0]
    rank, shape = first.dim(), [length for _, length in ranges]
    if operator is _aten.unsqueeze.default:
        axis = origin.args[1] % (rank + 1)
        return (*ranges[:axis], *ranges[axis + 1 :]), shape
    if operator is _aten.squeeze.dim:
        axis = origin.args[1] % rank
        if first.shape[axis] != 1:
            return ranges, shape
        return (*ranges[:axis], (0, 1), *ranges[axis:]), shape
    if operator in (_aten.select.int, _aten.unbind.int):
        axis = (origin.args[1] if operator is _aten.select.int else _argument(origin, 1, "dim", 0)) % rank
        index = origin.args[2] if operator is _aten.select.int else origin.index or 0
        return (*ranges[:axis], (index % int(first.shape[axis]), 1), *ranges[axis:]), shape
    if operator is _aten.slice.Tensor:
        axis, begin = _argument(origin, 1, "dim", 0) % rank, _argument(origin, 2, "start", None) or 0
        if _argument(origin, 4, "step", 1) != 1:
            return None
        begin = max(0, begin + int(first.shape[axis])) if begin < 0 else begin
    elif operator in (_aten.split.Tensor, _aten.split_with_sizes.default):
        axis, sizes, index = _argument(origin, 2, "dim", 0) % rank, origin.args[1], origin.index or 0
        begin = index * sizes if isinstance(sizes, int) else sum(sizes[:index])
    else:
        return None
    start, length = ranges[axis]
    return (*ranges[:axis], (start + begin, length), *ranges[axis + 1 :]), shape
