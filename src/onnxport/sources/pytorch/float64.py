"""A PyTorch model in float64 that goes on believing in float32.

Every float that the model computes is a `Shadow`: a tensor that says that it is float32 and holds float64. So checks of
types, masks of the lowest float32 and casts to float32 in the model's code, or in torch's own, do what they always do,
and nothing is rounded to float32. The weights stay as they are, in float32, and are cast when an operator reads them
and let go right after: memory holds one weight in float64, not all. Nothing here names an architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from onnxport.sources.pytorch.decisions import Replay, is_decision
from onnxport.system.memory import require_memory
from onnxport.weights.lazy import LazyTensor, evaluate

_aten = torch.ops.aten
_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_NARROWER = {wide: narrow for narrow, wide in _WIDER.items()}
# They move numbers without computing: the numbers are cast afterwards, when there are fewer.
_GATHERS = frozenset({_aten.embedding.default, _aten.index_select.default, _aten.index.Tensor, _aten.gather.default})
# Elements of a weight that is multiplied by in one piece: 64 MiB in float64.
_PIECE = 2**23


class Shadow(torch.Tensor):
    """A tensor of float32 (complex64) by its type, of float64 (complex128) by its numbers, `inner`."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Shadow:
        made: Shadow = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=_NARROWER[inner.dtype], device="cpu", requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    def __init__(self, inner: torch.Tensor) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError(f"{func} on a float64 shadow outside of `float64`")


@contextmanager
def float64(replay: Replay) -> Iterator[None]:
    """Within it every model computes in float64, and decides as in the run of `replay`."""
    # Kernels of float32 alone, which torch chooses by the type.
    fused, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with _Float64(replay):
            yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch.backends.mha.set_fastpath_enabled(fused)


def shadowed(value: Any) -> Any:
    """A tensor of float32 or float64 as a shadow; anything else as it is."""
    wide = widened(value)
    return Shadow(wide) if isinstance(wide, torch.Tensor) and wide.dtype in _NARROWER else wide


def widened(value: Any) -> Any:
    """The numbers of a shadow, or of a float32 or complex64 tensor, in twice the precision; anything else as it is.

    Raises:
        MemoryLimitError: they do not fit.
    """
    if isinstance(value, Shadow):
        return value.inner
    wide = _WIDER.get(value.dtype) if isinstance(value, torch.Tensor) else None
    if wide is None:
        return value
    if value.numel() > _PIECE:
        require_memory(value.numel() * wide.itemsize, "A weight in float64", "")
    return (evaluate(value) if isinstance(value, LazyTensor) else value).to(wide)


class _Float64(TorchDispatchMode):
    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self.replay = replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = _written(func, args, kwargs)
        if written is not None:
            return self._write(func, args, kwargs, written)
        if _is_view(func) and not any(isinstance(leaf, Shadow) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)  # of a weight or buffer, which a model may write through
        if func is _aten.view.dtype:
            raise TypeError("the bits of a float32 are read")
        result = _computed(func, args, kwargs)
        if is_decision(func, args, kwargs, result):
            result = self.replay.next(func, result)
        return result if _says_float64(args, kwargs) else tree_map(shadowed, result)

    def _write(self, func: Any, args: Any, kwargs: Any, target: torch.Tensor) -> Any:
        """In the precision of the tensor that is written into: a shadow, or a buffer of the model."""
        if torch.Tag.inplace_view in func.tags and isinstance(target, Shadow):
            with no_dispatch():  # the shape that it says it has
                func(*args, **kwargs)
        fit = widened if isinstance(target, Shadow) or target.dtype in _NARROWER else _narrowed
        own = func(*tree_map(fit, args), **tree_map(fit, kwargs))
        if is_decision(func, args, kwargs, own):
            self.replay.next(func, own)
        return target


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    kwargs = {name: _widened_type(value) for name, value in kwargs.items()}
    args = tuple(map(_widened_type, args))
    default = torch.get_default_dtype()
    torch.set_default_dtype(_WIDER.get(default, default))
    try:
        if func in _GATHERS:
            return func(*tree_map(_inner, args), **kwargs)
        if func in (_aten.mm.default, _aten.addmm.default) and args[-1].numel() > _PIECE:
            return _in_pieces(func, args, kwargs)
        if func is _aten._grouped_mm.default:
            return _expert_by_expert(*args, **kwargs)
        return func(*tree_map(widened, args), **tree_map(widened, kwargs))
    finally:
        torch.set_default_dtype(default)


def _in_pieces(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """A product with a large weight, some of its columns after the other; a bias of `addmm` has as many columns."""
    weight, columns = _inner(args[-1]), args[-1].shape[1]
    width = max(_PIECE // weight.shape[0], 1)
    first = widened(args[-2])
    made = []
    for start in range(0, columns, width):
        now = slice(start, min(start + width, columns))
        bias = tuple(widened(b[..., now] if b.shape[-1] == columns else b) for b in map(_inner, args[:-2]))
        made.append(func(*bias, first, widened(weight[:, now]), **kwargs))
    return torch.cat(made, 1)


def _expert_by_expert(rows: Any, weights: Any, ends: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Torch's product of a mixture of experts, which it has not in float64: rows up to each end times one weight.

    Args:
        rows: (n, k); sorted by expert.
        weights: (experts, k, m).
        ends: of the rows of each expert, (experts,).
    """
    rows, weights = widened(rows), _inner(weights)
    if rows.ndim != 2 or weights.ndim != 3 or ends is None or bias is not None:
        raise TypeError("a grouped product of another kind")
    made = rows.new_zeros((len(rows), weights.shape[2]))
    start = 0
    for expert, end in enumerate(ends.tolist()):
        made[start:end] = rows[start:end] @ widened(weights[expert])
        start = end
    return made


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None for r in func._schema.returns)


def _written(func: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
    """The tensor that an operator writes into."""
    if not func._schema.is_mutable:
        return None
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found = args[position] if position < len(args) else kwargs.get(argument.name)
            if isinstance(found, torch.Tensor):
                return found
    raise TypeError(f"{func} writes into several tensors")


def _says_float64(args: Any, kwargs: Any) -> bool:
    """Whether the model itself asks for float64, by a type or by a tensor that is no single number."""
    return any(
        leaf is torch.float64
        or (isinstance(leaf, torch.Tensor) and not isinstance(leaf, Shadow) and leaf.ndim and leaf.dtype in _NARROWER)
        for leaf in tree_leaves((args, kwargs))
    ) and not any(leaf is torch.float32 for leaf in tree_leaves((args, kwargs)))


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Shadow) else value


def _widened_type(value: Any) -> Any:
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def _narrowed(value: Any) -> Any:
    value = _inner(value)
    narrow = _NARROWER.get(value.dtype) if isinstance(value, torch.Tensor) else None
    return value if narrow is None else value.to(narrow)
