"""A model of masks as two sources: the image is read once, and masks follow for any number of prompts.

The verbs are conventions of transformers' models for masks: `get_image_embeddings`, `forward(image_embeddings=...)` and
`get_image_wide_positional_embeddings`. Names of graphs, inputs and outputs are those of transformers.js.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import ExportError, OnnxPortError, TaskError
from onnxport.runtime.prompts.points import EMBEDDINGS, LABELS, POINTS, POSITIONS
from onnxport.sources.base import Arrays
from onnxport.sources.pytorch.source import TorchSource
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    import torch

_GRID = "get_image_wide_positional_embeddings"
# Two ways through the same torch operators differ by rounding alone.
_ROUNDING = 1e-4
_HINT = "onnxport converts models of masks whose prompts are points, such as SAM."


class ImageEmbeddingsSource(TorchSource):
    """From `pixel_values` to all that the decoder of masks needs of an image.

    Outputs: `image_embeddings` (images, features, height, width), or `image_embeddings.0` and so on, from the largest
    map to the smallest; and `image_positional_embeddings` of the same shape, where the model has them.
    """

    def __init__(self, model: torch.nn.Module, architecture: str | None = None) -> None:
        super().__init__(model, (), architecture)

    def accepts(self) -> frozenset[str] | None:
        return frozenset({"pixel_values"})

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """The image half alone."""
        import torch

        model: Any = self.model
        made = model.get_image_embeddings(tensors["pixel_values"])
        found: dict[str, Any] = {EMBEDDINGS: made}
        if hasattr(model, _GRID) and isinstance(made, torch.Tensor):
            found[POSITIONS] = getattr(model, _GRID)().repeat(made.shape[0], 1, 1, 1)
        return found


class MaskDecoderSource(TorchSource):
    """From the outputs of `ImageEmbeddingsSource` and points to masks.

    Inputs: `input_points` (images, objects, points, 2) in pixels of the prepared image, `input_labels` (images,
    objects, points): 1 on the object, 0 beside it, -10 for no point. Outputs: `iou_scores` (images, objects, 3) and
    `pred_masks` (images, objects, 3, height, width), logits.

    Args:
        embeddings: names of the embeddings, in the order in which the model takes them.
    """

    def __init__(
        self, model: torch.nn.Module, embeddings: tuple[str, ...], outputs: tuple[str, ...],
        architecture: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, outputs, architecture)
        self.embeddings = embeddings

    def accepts(self) -> frozenset[str] | None:
        return frozenset({*self.embeddings, POSITIONS, POINTS, LABELS})

    def signature(self, forward: Callable[..., Any]) -> Any:
        names = [name.replace(".", "__") for name in (*self.embeddings, POSITIONS, POINTS, LABELS)]
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in names])

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """The half that reads prompts; the grid is an input, not computed again."""
        maps = [tensors[name] for name in self.embeddings]
        given = {EMBEDDINGS: maps[0] if self.embeddings == (EMBEDDINGS,) else maps}
        given |= {name: tensors[name] for name in (POINTS, LABELS)}
        if POSITIONS not in tensors:
            return forward(**given)
        model: Any = self.model
        # The model repeats the grid for every image. All rows are equal, so the first one stands for them.
        setattr(model, _GRID, lambda: tensors[POSITIONS][:1])
        try:
            return forward(**given)
        finally:
            delattr(model, _GRID)


def require_verbs(model: Any, name: str) -> None:
    """Make sure that a model follows the conventions that this module needs.

    Raises:
        TaskError: it does not.
    """
    takes = inspect.signature(model.forward).parameters
    if not hasattr(model, "get_image_embeddings") or not {EMBEDDINGS, POINTS, LABELS} <= set(takes):
        raise TaskError(
            f"{name} makes masks, but does not read its image and its points apart. onnxport cannot convert it yet.",
            hint=_HINT,
        )


@contextmanager
def prompted_masks(name: str) -> Iterator[None]:
    """Within it a model of masks runs; whatever it raises tells that it cannot be taken apart.

    Raises:
        ExportError: in the place of any other exception.
    """
    try:
        yield
    except OnnxPortError:
        raise
    except Exception as error:
        raise ExportError(
            f"{name} does not run with its image and its points apart: {first_line(error)}.", hint=_HINT
        ) from error


def require_parts_suffice(decoder: MaskDecoderSource, inputs: Arrays, maps: Arrays) -> None:
    """Make sure that the two parts, one after the other in torch, are the whole model.

    Args:
        inputs: `pixel_values`, `input_points` and `input_labels`.
        maps: what the image half gives for these pixels.

    Raises:
        ExportError: the parts do not run, or their masks are not those of the model.
    """
    name = decoder.architecture
    with prompted_masks(name):
        whole = TorchSource(decoder.model, decoder.outputs, name).run(inputs)
        found = decoder.run({**maps, **{key: inputs[key] for key in (POINTS, LABELS)}})
    for key, values in whole.items():
        off, scale = float(np.abs(found[key] - values).max()), float(np.abs(values).max())
        if not off <= _ROUNDING * scale:  # also where it is no number
            raise ExportError(
                f"{name} does more with an image than its embeddings tell: {key} is off by {off:.3g} of {scale:.3g}.",
                hint=_HINT,
            )
