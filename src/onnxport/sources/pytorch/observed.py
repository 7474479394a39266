"""What the modules and the operators of a PyTorch model give in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onnxport.sources.base import Arrays, ModuleOutput, named_leaves
from onnxport.sources.pytorch.model_state import state_kept


class _Model(Protocol):
    """What is needed of a `TorchSource`."""

    model: torch.nn.Module

    def threads(self, inputs: Arrays) -> AbstractContextManager[None]: ...
    def tensors(self, inputs: Arrays) -> dict[str, torch.Tensor]: ...
    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any: ...


def observed_modules(source: _Model, inputs: Arrays) -> list[ModuleOutput]:
    """What each module gave, in the order in which the calls ended.

    A tensor that several modules pass on is one array. Later changes in place are not in it.
    """
    found: list[ModuleOutput] = []
    copies: dict[tuple[int, int, tuple[int, ...]], np.ndarray] = {}
    kept: list[torch.Tensor] = []  # so that no other tensor gets the same address

    def array(tensor: torch.Tensor) -> np.ndarray:
        key = (id(tensor), tensor._version, tuple(tensor.shape))
        if key not in copies:
            kept.append(tensor)
            copies[key] = _array(tensor)
        return copies[key]

    def record(path: str, module: torch.nn.Module, result: object) -> None:
        tensors = [leaf for _, leaf in named_leaves(result, lambda leaf: isinstance(leaf, torch.Tensor))]
        values = tuple(array(tensor) for tensor in tensors if _is_readable(tensor))
        found.append(ModuleOutput(path, _kind(module), values))

    _run(source, inputs, record, nullcontext())
    return found


def observed_operators(source: _Model, inputs: Arrays, first: int, last: int) -> list[ModuleOutput]:
    """What operators gave between two ends of module calls, with the module that they ran in.

    Args:
        first, last: positions in what `observed_modules` gives: after `first` (-1: from the beginning), up to `last`.
    """
    recorder = _Recorder(first < 0)
    ended = -1

    def count(_path: str, _module: torch.nn.Module, _result: object) -> None:
        nonlocal ended
        ended += 1
        recorder.active = first <= ended < last
        recorder.stack.pop()

    _run(source, inputs, count, recorder, recorder.stack.append)
    return recorder.found


def _run(
    source: _Model,
    inputs: Arrays,
    ended: Callable[[str, torch.nn.Module, object], None],
    mode: AbstractContextManager[Any],
    begun: Callable[[tuple[str, str]], None] = lambda _: None,
) -> None:
    hooks = _hooks(source.model, begun, ended)
    with torch.no_grad(), source.threads(inputs), state_kept(source.model), hooks, _plain(), mode:
        source.invoke(source.model, source.tensors(inputs))


@contextmanager
def _hooks(
    model: torch.nn.Module,
    begun: Callable[[tuple[str, str]], None],
    ended: Callable[[str, torch.nn.Module, object], None],
) -> Iterator[None]:
    handles = []
    for path, module in model.named_modules():
        # A hook that returns something changes the outputs.
        handles.append(module.register_forward_pre_hook(lambda module, _, path=path: begun((path, _kind(module)))))
        handles.append(module.register_forward_hook(lambda module, _, result, path=path: ended(path, module, result)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plain() -> AbstractContextManager[Any]:
    """Attention as its steps, so that what lies between them can be seen."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    return found


class _Recorder(TorchDispatchMode):
    def __init__(self, active: bool) -> None:
        super().__init__()
        self.active = active
        self.stack: list[tuple[str, str]] = []  # path and class of the modules that run
        self.found: list[ModuleOutput] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.active:
            values = [_array(leaf) for leaf in tree_leaves(result) if _is_readable(leaf)]
            if func is torch.ops.aten.addmm.default:  # in a graph the product may be a node of its own
                values.append(_array(result - args[0]))
            self.found += [ModuleOutput(*(self.stack[-1] if self.stack else ("", "")), (value,)) for value in values]
        return result


def _kind(module: torch.nn.Module) -> str:
    return type(module).__name__


def _is_readable(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and not value.is_complex()


def _array(tensor: torch.Tensor) -> np.ndarray:
    plain = tensor.detach()
    found: np.ndarray = (plain.float() if plain.is_floating_point() else plain).clone().numpy()
    return found
