"""A module whose inputs are containers of tensors, or Python values beside tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.sources.pytorch.source import TorchSource

if TYPE_CHECKING:
    import torch


class NestedSource(TorchSource):
    """A `torch.nn.Module`, called with containers that are put together from the graph's inputs.

    Args:
        model: in eval mode.
        names: of the graph's inputs: `levels.0`, `extra.left`.
        arguments: of the module, from tensors by these names.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        names: tuple[str, ...],
        arguments: Callable[[Mapping[str, torch.Tensor]], dict[str, Any]],
    ) -> None:
        super().__init__(model)
        self.names, self.arguments = names, arguments

    def accepts(self) -> frozenset[str] | None:
        return frozenset(self.names)

    def takes_more(self) -> bool:
        return False

    def signature(self, forward: Callable[..., Any]) -> inspect.Signature:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(name.replace(".", "__"), kind) for name in self.names])

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """One call of the module, with its containers and constants around the tensors."""
        return super().invoke(forward, self.arguments(tensors))
