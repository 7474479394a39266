"""One run of a PyTorch model, and the same run with less rounding and with more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from onnxport.sources.base import Arrays
from onnxport.sources.pytorch.decisions import Decisions, DecisionsDiffer, Replay, is_decision, is_random
from onnxport.sources.pytorch.float64 import float64, shadowed, widened
from onnxport.sources.pytorch.model_state import state_kept

_UNIT = 2.0**-23  # of float32, in the last place of a number just above a power of two


class _Model(Protocol):
    """What is needed of a `TorchSource`."""

    model: torch.nn.Module

    def run_noting(self, inputs: Arrays) -> tuple[Arrays, tuple[str, ...]]: ...
    def threads(self, inputs: Arrays) -> AbstractContextManager[None]: ...
    def tensors(self, inputs: Arrays) -> dict[str, torch.Tensor]: ...
    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any: ...
    def select(self, result: object) -> dict[str, torch.Tensor]: ...


class TorchRun:
    """The outputs of a model, and the means to repeat the run.

    Attributes:
        outputs: in float32, as the model gives them.
        changed: names of what the model changed in its own state.
    """

    def __init__(self, source: _Model, inputs: Arrays) -> None:
        self._source, self._inputs = source, inputs
        self._decisions = Decisions()
        with self._decisions.recorded():
            self.outputs, self.changed = source.run_noting(inputs)

    def in_float64(self) -> Arrays:
        """The outputs with all floats in float64, from the weights as they are, with the decisions of the first run.

        Raises:
            Exception: an operator has no float64, the model's code insists on float32, or memory is short.
        """
        with float64(self._decisions.replay()):
            found = self._again(shadowed)
        return {name: widened(tensor).numpy() for name, tensor in found.items()}

    def perturbed(self, seed: int) -> Arrays:
        """The outputs with every result of an operator moved by up to one unit in the last place.

        Raises:
            Exception: as `in_float64`.
        """
        with _Perturbed(self._decisions.replay(), seed):
            found = self._again(lambda tensor: tensor)
        return {name: tensor.numpy() for name, tensor in found.items()}

    def decided_otherwise(self, seed: int) -> Arrays | None:
        """The outputs in float64, with what the model decides from perturbed numbers; None where that is the same.

        Raises:
            Exception: as `in_float64`.
        """
        own = Decisions()
        try:
            with _Perturbed(self._decisions.replay(), seed, own):
                self._again(lambda tensor: tensor)
        except DecisionsDiffer:  # the model's code took another path
            return None
        if own.equal(self._decisions):
            return None
        with float64(own.replay()):
            found = self._again(shadowed)
        return {name: widened(tensor).numpy() for name, tensor in found.items()}

    def _again(self, change: Any) -> dict[str, torch.Tensor]:
        source = self._source
        with torch.no_grad(), source.threads(self._inputs), state_kept(source.model):
            tensors = {name: change(tensor) for name, tensor in source.tensors(self._inputs).items()}
            return source.select(source.invoke(source.model, tensors))


class _Perturbed(TorchDispatchMode):
    """Every result of an operator is moved by up to one unit in the last place.

    Args:
        replay: decisions of the run without that.
        own: what is decided here is kept there and taken; without it the decisions of `replay` are taken.
    """

    def __init__(self, replay: Replay, seed: int, own: Decisions | None = None) -> None:
        super().__init__()
        self.replay, self.own, self.generator = replay, own, torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if is_decision(func, args, kwargs, result):
            result = self._decided(func, result)
        aliases = any(r.alias_info is not None for r in func._schema.returns)
        return result if aliases else tree_map(self._moved, result)

    def _decided(self, func: Any, result: Any) -> Any:
        if self.own is None or is_random(func):
            result = self.replay.next(func, result)
        else:
            self.replay.skip(func)
        if self.own is not None:
            self.own.add(func, result)
        return result

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
            return value
        by = torch.rand(value.shape, generator=self.generator) * 2 - 1
        moved = value * (1 + by * _UNIT)
        # What is decided from counts and masks in floats is no matter of rounding: whole numbers are exact.
        return moved if self.own is None else torch.where(value == value.trunc(), value, moved)
