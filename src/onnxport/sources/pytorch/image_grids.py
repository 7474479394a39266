"""Images as patches in a row, with a grid that says how they lie (`image_grid_thw`): how their encoders are traced.

Such an encoder computes positions of patches, and which of them see each other, in Python and of the grid's values,
which no trace can follow. transformers lets the caller give what it computes (transformers/vision_utils.py), and its
exporter does so, with the numbers of one grid. Here operators compute it of the grid, and only the number of patches
is a shape: of one image with one frame, which is what the run time gives at a time. Names and attributes are those
that transformers' exporter goes by (exporters/utils.py): no architecture is named here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.system.replaced import replaced

if TYPE_CHECKING:
    import torch

_GRID, _ENDS = "grid_thw", "cu_seqlens"


def grid_encoder(model: torch.nn.Module) -> Any:
    """The part of the model that takes patches and their grid, or None."""
    return next((part for part in model.modules() if _GRID in inspect.signature(part.forward).parameters), None)


def traced_patches(encoder: Any, patches: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """What the encoder makes of one image, by operators that a trace can follow.

    Args:
        patches: (patches, numbers).
        grid: (1, 3), one frame, rows and columns of patches.

    Returns:
        (features, hidden).

    Raises:
        ExportError: it says nothing about how patches are merged.
    """
    import torch

    merge = getattr(encoder, "spatial_merge_size", None)
    if not isinstance(merge, int):
        raise ExportError(
            f"{type(encoder).__name__} takes images with a grid, but has no spatial_merge_size.",
            hint="onnxport cannot convert such models yet.",
        )
    count = patches.shape[0]
    positions = patch_positions(grid, count, merge)
    ends = torch.tensor([0, 1], dtype=torch.int32) * count
    given = {_GRID: grid, "position_ids": positions, _ENDS: ends}
    side = _window_side(encoder, merge)
    if side is None:
        return _features(encoder(patches, **given))
    # The encoder would sort patches by windows, so that each is a piece. A mask needs no order.
    order = torch.arange(count // (merge * merge))
    windows = patch_windows(positions, side * merge)
    with _seen_in_windows(encoder, windows, ends):
        return _features(encoder(patches, **given, window_index=order, cu_window_seqlens=windows))


def patch_positions(grid: torch.Tensor, count: int, merge: int) -> torch.Tensor:
    """Row and column of each patch, (patches, 2): `get_vision_position_ids` of transformers for one image.

    Patches come in squares of `merge` by `merge`, row of squares by row of squares.
    """
    import torch

    number = torch.arange(count)
    inside, square = number % (merge * merge), number // (merge * merge)
    across = (grid[0, 2] // merge).clamp(min=1)  # what divides by nothing ends the process, in ONNX Runtime
    rows = square // across * merge + inside // merge
    columns = square % across * merge + inside % merge
    return torch.stack([rows, columns], -1)


def patch_windows(positions: torch.Tensor, side: int) -> torch.Tensor:
    """A number for each patch that it has in common with those in its window, (patches,).

    Windows are those of `get_vision_window_index` of transformers.

    Args:
        positions: (patches, 2), rows and columns.
        side: patches on a side of a window.
    """
    places = positions // side
    # More than there are columns of windows: one image is never a million windows wide.
    return places[:, 0] * 2**20 + places[:, 1]


def _window_side(encoder: Any, merge: int) -> int | None:
    """Squares of patches on a side of a window; None where all patches of an image see each other."""
    size, patch = getattr(encoder, "window_size", None), getattr(encoder, "patch_size", None)
    return size // merge // patch if isinstance(size, int) and isinstance(patch, int) else None


def _features(result: Any) -> torch.Tensor:
    found: torch.Tensor = getattr(result, "pooler_output", result)
    return found


@contextmanager
def _seen_in_windows(encoder: Any, windows: torch.Tensor, ends: torch.Tensor) -> Iterator[None]:
    """Attention that is given `windows` in the place of ends of pieces sees all, but for a mask."""
    mask = windows[:, None] == windows[None, :]

    def masked(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            if given.get(_ENDS) is not windows:
                return forward(*args, **given)
            with _attention_mask(mask):
                return forward(*args, **{**given, _ENDS: ends})

        return call

    attention = [part for part in encoder.modules() if _takes_ends(part) and not any(map(_takes_ends, part.children()))]
    for part in attention:
        part.forward = masked(part.forward)
    try:
        yield
    finally:
        for part in attention:
            del part.forward  # the class's is there again


@contextmanager
def _attention_mask(mask: torch.Tensor) -> Iterator[None]:
    """Attention without a mask gets this one; it may be an exporter's function, in the place of torch's."""
    from torch.nn import functional

    original = functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **named: Any) -> Any:
        return original(query, key, value, mask if attn_mask is None else attn_mask, *args, **named)

    with replaced(functional, "scaled_dot_product_attention", attend):
        yield


def _takes_ends(part: Any) -> bool:
    return _ENDS in inspect.signature(part.forward).parameters
