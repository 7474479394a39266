"""Pool sequences as images of one row while tracing.

Upstream (torch 2.13): `max_pool1d` is made of other operators in C++, with sizes that are numbers, so the length of the
sequence becomes static. `max_pool2d` keeps it dynamic. canine shortens its mask with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.system.replaced import replaced

if TYPE_CHECKING:
    import torch


@contextmanager
def dynamic_pooling(model: torch.nn.Module) -> Iterator[None]:
    """Patch `max_pool1d` of torch.nn.functional, also as layers call it.

    Args:
        model: not used; every trace fix takes it.
    """
    from torch.nn import functional

    original = functional.max_pool1d

    def pool(
        input: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        if return_indices:
            return original(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        sizes = (_only(kernel_size), _only(kernel_size if stride is None else stride))
        image = functional.max_pool2d(
            input.unsqueeze(-2), (1, sizes[0]), (1, sizes[1]), (0, _only(padding)), (1, _only(dilation)), ceil_mode
        )
        return image.squeeze(-2)

    with replaced(functional, "max_pool1d", pool):
        yield


def _only(size: Any) -> Any:
    """A size of the one axis, which may be given as a tuple."""
    return size[0] if isinstance(size, (tuple, list)) else size
