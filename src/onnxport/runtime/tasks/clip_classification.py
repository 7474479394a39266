"""Labels of clips, which are given as their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.images.load import load_image
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.image_pipeline import ImagePipeline, ImageSettings
from onnxport.runtime.tasks.scores import ranked, softmax


@dataclass(frozen=True)
class ClipSettings(ImageSettings):
    """Arguments of the call.

    Attributes:
        top_k: labels of the answer; None for all.
    """

    top_k: int | None = 5


class ClipClassification(ImagePipeline):
    """`pipeline(["frame1.png", "frame2.png", ...])` returns a clip's best labels, [{"label": str, "score": float}].

    Each frame is a path, an address or a PIL image; their number is that of the graph's input. A list of clips is a
    list of lists. Settings are those of `ClipSettings`.
    """

    Settings = ClipSettings

    def is_one(self, inputs: Any) -> bool:
        return not inputs or not isinstance(inputs[0], (list, tuple))

    def prepare(self, item: Any, settings: ClipSettings) -> Prepared:
        frames = self.model.inputs["pixel_values"].axes[1]
        if isinstance(frames, int) and len(item) != frames:
            raise UsageError(
                f"The clip has {len(item)} frames, and the model takes {frames}.",
                hint=f"Give {frames} frames, at equal distances in time.",
            )
        rows = [self.images(load_image(frame, settings.timeout))["pixel_values"] for frame in item]
        return Prepared([{"pixel_values": np.stack(rows)}])

    def answer(self, outputs: Sequence[Row], context: Any, settings: ClipSettings) -> list[dict[str, Any]]:
        if settings.top_k is not None:
            at_least(settings.top_k, 1, "top_k")
        return ranked(softmax(np.asarray(outputs[0]["logits"], np.float32)), self.model.config, settings.top_k)
