"""The hidden states of an image model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings


@dataclass(frozen=True)
class ImageFeatureSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        pool: return the pooled output.
        return_tensors: return an array instead of lists.
    """

    pool: bool | None = None
    return_tensors: bool | str = False


class ImageFeatures(ImagePipeline):
    """`pipeline("photo.png")` returns the first output of the graph as nested lists, (1, patches, width).

    Settings are those of `ImageFeatureSettings`.
    """

    Settings = ImageFeatureSettings

    def answer(self, outputs: Sequence[Row], context: Any, settings: ImageFeatureSettings) -> Any:
        output = outputs[0]
        if settings.pool and "pooler_output" not in output:
            raise UsageError("The graph has no pooler_output.", hint="Leave pool out.")
        found = (output["pooler_output"] if settings.pool else next(iter(output.values())))[None]
        return found if settings.return_tensors else found.tolist()
