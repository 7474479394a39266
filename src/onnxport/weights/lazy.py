"""A tensor that remembers how it is made instead of holding its numbers.

transformers renames, casts, splits, merges and permutes tensors while it loads a checkpoint. Given
`LazyTensor`s instead of numbers, that code runs as it is, and what it did is on record afterwards:
an expression for each parameter whose leaves are places in files. No table of conversions has to
be kept in step with transformers.

An operation that moves or casts numbers is recorded; any other one is computed, from the file.
A model whose parameters are lazy therefore runs like any other: each parameter is mapped when an
operation needs it and let go right after, so that memory never holds more than a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import SUPPORTED_NODES, tree_flatten, tree_map

from onnxport.weights import reading
from onnxport.weights.origins import Call, Held, Stored

_aten = torch.ops.aten

IDENTITIES = frozenset({_aten.alias.default, _aten.detach.default, _aten.lift_fresh.default})

# What loading does to tensors without computing on them. Replayed by the very operators that torch
# would have run, so the record means what torch means.
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
_VIEWS = frozenset({_aten.view.default, _aten._unsafe_view.default})


Origin = Stored | Held | Call


class LazyTensor(torch.Tensor):
    """A tensor without storage; `origin` says how to make it.

    Args:
        like: a tensor on the meta device with its shape, strides and dtype.
        origin: how it is made.
    """

    origin: Origin
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, like: torch.Tensor, origin: Origin) -> LazyTensor:
        # Outside of inference mode: a view of a tensor made inside of it could not be wrapped.
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
        # Strides may come out otherwise when it is replayed on pieces, and views depend on them.
        func = _aten.reshape.default if func in _VIEWS else func
        if func in _RECORDED and _stays_on_cpu(kwargs) and _all_lazy((args, kwargs)):
            return record(func, args, kwargs)
        return func(*_each(_computed, args), **_each(_computed, kwargs))


def record(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """The lazy result (or list of results) of `func`; shapes and strides are computed on the meta device."""
    kwargs = kwargs or {}
    on_meta = {name: torch.device("meta") if name == "device" else value for name, value in kwargs.items()}
    results = func(*_each(_meta, args), **_each(_meta, on_meta))
    if isinstance(results, torch.Tensor):
        return LazyTensor(results, Call(func, args, kwargs))
    return [LazyTensor(result, Call(func, args, kwargs, index)) for index, result in enumerate(results)]


def evaluate(tensor: LazyTensor) -> torch.Tensor:
    """The numbers of `tensor`, by replaying its record on the numbers of its leaves."""
    origin = tensor.origin
    if isinstance(origin, Held):
        return origin.tensor
    if isinstance(origin, Stored):
        return reading.read(origin, tensor)

    def computed(value: Any) -> Any:
        return evaluate(value) if isinstance(value, LazyTensor) else value

    result = origin.operator(*_each(computed, origin.args), **_each(computed, origin.kwargs))
    value: torch.Tensor = result if origin.index is None else result[origin.index]
    return value


def hold(tensor: torch.Tensor, name: str = "") -> LazyTensor:
    """A tensor in memory as a lazy one, so that both kinds are written in the same way."""
    tensor = tensor.detach()
    return LazyTensor(_meta_like(tensor), Held(tensor, name))


def leaves(tensor: LazyTensor) -> Iterator[Stored | Held]:
    """The places that the numbers come from, in the order of the record."""
    origin = tensor.origin
    if not isinstance(origin, Call):
        yield origin
        return
    for value in tree_flatten((origin.args, origin.kwargs))[0]:
        if isinstance(value, LazyTensor):
            yield from leaves(value)


def stored_location(tensor: LazyTensor) -> Stored | None:
    """Where the bytes of `tensor` lie, if they lie in a file as they are."""
    origin = _behind_identities(tensor)
    return origin if isinstance(origin, Stored) else None


def copied_bytes(tensor: LazyTensor) -> int:
    """Bytes of memory that the numbers take while they are computed: none for those that can be mapped."""
    if not isinstance(_behind_identities(tensor), Call):
        return 0
    size = tensor.numel() * tensor.element_size()
    return 2 * size if _is_merged(tensor) else size


def _behind_identities(tensor: LazyTensor) -> Origin:
    origin = tensor.origin
    while isinstance(origin, Call) and origin.operator in IDENTITIES:
        origin = origin.args[0].origin
    return origin


def _is_merged(tensor: LazyTensor) -> bool:
    """Whether parts are put together, which are in memory beside the whole."""
    origin = tensor.origin
    if not isinstance(origin, Call):
        return False
    inner = (value for value in tree_flatten((origin.args, origin.kwargs))[0] if isinstance(value, LazyTensor))
    return origin.operator in (_aten.cat.default, _aten.stack.default) or any(map(_is_merged, inner))


def _stays_on_cpu(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is None or torch.device(device).type == "cpu"


def _all_lazy(values: Any) -> bool:
    return all(isinstance(leaf, LazyTensor) for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor))


def _each(function: Callable[[Any], Any], values: Any) -> Any:
    """`function` of every leaf. torch's own `tree_map` took as long as the operators, on arguments of a few leaves."""
    kind = type(values)
    if kind is tuple or kind is list:
        return kind([_each(function, value) for value in values])
    if kind is dict:
        return {name: _each(function, value) for name, value in values.items()}
    if kind is LazyTensor or kind not in SUPPORTED_NODES:
        return function(values)
    return tree_map(function, values)  # another container


def _computed(value: Any) -> Any:
    if not isinstance(value, LazyTensor):
        return value

    return evaluate(value)


def _meta(value: Any) -> Any:
    return _meta_like(value) if isinstance(value, torch.Tensor) else value


def _meta_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
