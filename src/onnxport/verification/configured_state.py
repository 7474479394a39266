"""What a loaded model holds beside its weights, against what its class makes of the same config.

A checkpoint holds no epsilon of a normalization, no rotary frequencies, no causal mask and no activation function: the
class of the model makes them of the config, and transformers makes computed buffers a second time while it loads (the
model has no memory before). So the class is called once more, without memory for weights, and the rest is compared.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.errors import VerificationError

if TYPE_CHECKING:
    import torch

# Elements: larger tensors of zeros or ones are weights, and need no memory.
_SMALL = 2**16
# Part of the largest number: buffers that are computed in another order.
_ROUNDING = 1e-6
_MODE = frozenset({"training", "name_or_path"})
_PLAIN = (bool, int, float, str, type(None))


def require_as_configured(model: Any) -> None:
    """Compare attributes and computed buffers of a transformers model with those of a model made of its config.

    Compared are, in each module: its class, numbers, words, functions, and tensors that are no parameters and that no
    checkpoint holds. Nothing is compared where weights are quantized, or where the class cannot be called with a config
    alone. Values of attributes may be lists or dicts; other objects are not compared.

    Args:
        model: as it was loaded, in eval mode.

    Raises:
        VerificationError: an attribute or a buffer differs.

    Example:
        >>> require_as_configured(model)  # doctest: +SKIP
    """
    made = _made_of_config(model)
    if made is None:
        return
    others = dict(made.named_modules())
    for path, module in model.named_modules():
        other = others.get(path)
        for name, found, wanted in _differences(module, other) if other is not None else ():
            raise VerificationError(
                f"{f'{path}.{name}'.strip('.')} of the loaded {type(model).__name__} is {_short(found)}. Its class "
                f"makes {_short(wanted)} of the config.",
                hint="Does loading change the model (kernels, a patched library)? Try it in a new process.",
            )


def _made_of_config(model: Any) -> Any:
    """A model of the same class and config whose weights have no memory; None where there is none."""
    import torch

    if getattr(model.config, "quantization_config", None) is not None:
        return None
    try:
        with torch.random.fork_rng(devices=[]), _without_weights(model.dtype):
            made = type(model)(copy.deepcopy(model.config))
    except Exception:  # classes of checkpoints take whatever arguments they want
        return None
    return made.eval()


@contextmanager
def _without_weights(dtype: torch.dtype) -> Iterator[None]:
    """Within the block tensors that are made empty, random or large have no memory."""
    import torch
    from torch.overrides import TorchFunctionMode
    from transformers import initialization

    unset = {torch.empty, torch.rand, torch.randn, torch.normal}
    filled = {torch.zeros, torch.ones, torch.full}

    class WithoutMemory(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func in unset or (func in filled and _elements(args, kwargs) > _SMALL):
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with initialization.no_init_weights(), initialization.no_tie_weights(), WithoutMemory():
            yield
    finally:
        torch.set_default_dtype(before)


def _elements(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Number of elements that a call of `torch.zeros` and the like asks for."""
    sizes = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
    product = 1
    for size in sizes if isinstance(sizes, (tuple, list)) else (sizes,):
        product *= size if isinstance(size, int) else 1
    return product


def _differences(module: torch.nn.Module, other: torch.nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, value of the other) of what differs; the name of a module's class is empty."""
    if type(module).__qualname__ != type(other).__qualname__:
        yield "", type(module).__qualname__, type(other).__qualname__
        return
    own, others = _state(module), _state(other)
    for name, value in own.items():
        if name not in others:
            continue
        if hasattr(value, "is_meta") and hasattr(others[name], "is_meta"):
            yield from _tensors_differ(name, value, others[name])
        elif (found := _plain(value)) != (wanted := _plain(others[name])):
            yield name, found, wanted


def _state(module: torch.nn.Module) -> dict[str, Any]:
    """Attributes of a module, and buffers that a checkpoint does not hold."""
    attributes = {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in _MODE}
    return attributes | {name: module._buffers.get(name) for name in module._non_persistent_buffers_set}


def _tensors_differ(name: str, found: torch.Tensor, wanted: torch.Tensor) -> Iterator[tuple[str, Any, Any]]:
    import torch

    if found.is_meta or wanted.is_meta:
        return
    if found.shape != wanted.shape:
        yield f"{name}.shape", tuple(found.shape), tuple(wanted.shape)
        return
    kept = found.dtype.itemsize >= 4 and wanted.dtype.itemsize >= 4
    one, two = found.detach().double(), wanted.detach().double()
    finite = two[two.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    rounding = _ROUNDING if kept else max(torch.finfo(t.dtype).eps for t in (found, wanted) if t.is_floating_point())
    wrong = ~torch.isclose(one, two, rtol=0, atol=scale * rounding, equal_nan=True)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        yield f"{name}{list(place) or ''}", found[place].item(), wanted[place].item()


def _plain(value: Any) -> Any:
    """A value that can be compared, of a function its name; None of other objects."""
    import torch

    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, functools.partial):
        return _plain(value.func), _plain(value.args), _plain(value.keywords)
    if inspect.isroutine(value) or inspect.isclass(value):
        return getattr(value, "__qualname__", None)
    return str(value) if isinstance(value, torch.dtype) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
