"""A tensor that records how it is computed instead of holding values.

transformers renames, casts, splits, merges and permutes tensors while it loads a checkpoint. With `LazyTensor`s as
input this code runs unchanged, and afterwards each parameter is an expression whose leaves are places in files.
onnxport needs no table of transformers' conversions.

Operators that rearrange or cast are recorded; any other operator is computed, from the file. A model with lazy
parameters therefore runs like any other: a parameter is mapped when an operator needs it and released right after, so
memory never holds more than a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import SUPPORTED_NODES, tree_flatten, tree_map

from onnxport.weights import reading
from onnxport.weights.origins import InMemory, Operation, Stored

_aten = torch.ops.aten

IDENTITIES = frozenset({_aten.alias.default, _aten.detach.default, _aten.lift_fresh.default})

# Operators that loading uses and that compute nothing. They are replayed with the same operators of torch, so the
# record has the same meaning.
_RECORDED = frozenset(
    {
        _aten.alias.default,
        _aten.detach.default,
        _aten.lift_fresh.default,
        _aten.clone.default,
        _aten._to_copy.default,
        _aten.slice.Tensor,
        _aten.select.int,
        _aten.split.Tensor,
        _aten.split_with_sizes.default,
        _aten.unbind.int,
        _aten.cat.default,
        _aten.stack.default,
        _aten.t.default,
        _aten.transpose.int,
        _aten.permute.default,
        _aten.reshape.default,
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
    }
)
# Arithmetic on weights, recorded only where code of onnxport asks for it (`record`): merging an adapter, say.
ARITHMETIC = frozenset({_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.mm.default})
_VIEWS = frozenset({_aten.view.default, _aten._unsafe_view.default})


Origin = Stored | InMemory | Operation


class LazyTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor without storage.

    Args:
        like: a tensor on the meta device with its shape, strides and dtype.
        origin: how it is computed.

    Attributes:
        origin: how it is computed.
    """

    origin: Origin
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, like: torch.Tensor, origin: Origin) -> LazyTensor:
        """Create a wrapper without storage."""
        # Not in inference mode: a view of a tensor that is created in it cannot be wrapped.
        with torch.inference_mode(False):
            made: LazyTensor = torch.Tensor._make_wrapper_subclass(
                cls, like.shape, strides=like.stride(), dtype=like.dtype, device="cpu", requires_grad=False
            )
        made.origin = origin
        return made

    def __init__(self, like: torch.Tensor, origin: Origin) -> None:
        super().__init__()

    def __repr__(self, **_: Any) -> str:
        return f"LazyTensor({list(self.shape)}, {self.dtype}, {type(self.origin).__name__})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Strides can differ when it is replayed on blocks, and views depend on strides.
        func = _aten.reshape.default if func in _VIEWS else func
        if func in _RECORDED and _stays_on_cpu(kwargs) and _all_lazy((args, kwargs)):
            return record(func, args, kwargs)
        return func(*_map_leaves(_evaluated, args), **_map_leaves(_evaluated, kwargs))


def record(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Return the lazy result (or list of results) of an operator; shapes and strides are computed on the meta device.

    Args:
        func: an operator of torch.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    kwargs = kwargs or {}
    on_meta = {name: torch.device("meta") if name == "device" else value for name, value in kwargs.items()}
    results = func(*_map_leaves(_meta, args), **_map_leaves(_meta, on_meta))
    if isinstance(results, torch.Tensor):
        return LazyTensor(results, Operation(func, args, kwargs))
    return [LazyTensor(result, Operation(func, args, kwargs, index)) for index, result in enumerate(results)]


def evaluate(tensor: LazyTensor) -> torch.Tensor:
    """Return the values of `tensor`, by replaying its record.

    Args:
        tensor: a lazy tensor.
    """
    origin = tensor.origin
    if isinstance(origin, InMemory):
        return origin.tensor
    if isinstance(origin, Stored):
        return reading.read(origin, tensor)

    def computed(value: Any) -> Any:
        return evaluate(value) if isinstance(value, LazyTensor) else value

    result = origin.operator(*_map_leaves(computed, origin.args), **_map_leaves(computed, origin.kwargs))
    value: torch.Tensor = result if origin.index is None else result[origin.index]
    return value


def in_memory(tensor: torch.Tensor, name: str = "") -> LazyTensor:
    """Return a tensor in memory as a lazy tensor, so that both kinds are written in the same way.

    Args:
        tensor: the tensor.
        name: where it comes from, for people.
    """
    tensor = tensor.detach()
    return LazyTensor(_meta_like(tensor), InMemory(tensor, name))


def leaves(tensor: LazyTensor) -> Iterator[Stored | InMemory]:
    """Yield the sources of the values, in the order of the record.

    Args:
        tensor: a lazy tensor.
    """
    origin = tensor.origin
    if not isinstance(origin, Operation):
        yield origin
        return
    for value in tree_flatten((origin.args, origin.kwargs))[0]:
        if isinstance(value, LazyTensor):
            yield from leaves(value)


def is_computed(tensor: LazyTensor) -> bool:
    """Return whether arithmetic is part of the record, so that two ways to compute it may round differently.

    Args:
        tensor: a lazy tensor.
    """
    origin = tensor.origin
    if not isinstance(origin, Operation):
        return False
    inner = (value for value in tree_flatten((origin.args, origin.kwargs))[0] if isinstance(value, LazyTensor))
    return origin.operator in ARITHMETIC or any(map(is_computed, inner))


def stored_location(tensor: LazyTensor) -> Stored | None:
    """Return the place of `tensor`'s bytes in a file, if they are stored unchanged.

    Args:
        tensor: a lazy tensor.
    """
    origin = _origin_without_identities(tensor)
    return origin if isinstance(origin, Stored) else None


def copied_bytes(tensor: LazyTensor) -> int:
    """Return the bytes of memory that computing the values takes: 0 if they can be memory-mapped.

    Args:
        tensor: a lazy tensor.
    """
    if not isinstance(_origin_without_identities(tensor), Operation):
        return 0
    size = int(tensor.numel() * tensor.element_size())
    return 2 * size if _is_merged(tensor) else size


def _origin_without_identities(tensor: LazyTensor) -> Origin:
    origin = tensor.origin
    while isinstance(origin, Operation) and origin.operator in IDENTITIES:
        origin = origin.args[0].origin
    return origin


def _is_merged(tensor: LazyTensor) -> bool:
    """Return whether parts are concatenated: parts and result are then in memory together."""
    origin = tensor.origin
    if not isinstance(origin, Operation):
        return False
    inner = (value for value in tree_flatten((origin.args, origin.kwargs))[0] if isinstance(value, LazyTensor))
    return origin.operator in (_aten.cat.default, _aten.stack.default) or any(map(_is_merged, inner))


def _stays_on_cpu(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is None or torch.device(device).type == "cpu"


def _all_lazy(values: Any) -> bool:
    return all(isinstance(leaf, LazyTensor) for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor))


def _map_leaves(function: Callable[[Any], Any], values: Any) -> Any:
    """Apply `function` to every leaf; torch's `tree_map` is slow for arguments of few leaves."""
    kind = type(values)
    if kind is tuple or kind is list:
        return kind([_map_leaves(function, value) for value in values])
    if kind is dict:
        return {name: _map_leaves(function, value) for name, value in values.items()}
    if kind is LazyTensor or kind not in SUPPORTED_NODES:
        return function(values)
    return tree_map(function, values)  # another type of container


def _evaluated(value: Any) -> Any:
    if not isinstance(value, LazyTensor):
        return value
    return evaluate(value)


def _meta(value: Any) -> Any:
    return _meta_like(value) if isinstance(value, torch.Tensor) else value


def _meta_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
