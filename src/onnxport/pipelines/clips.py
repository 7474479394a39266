"""Labels of clips, which are given as their frames."""

from __future__ import annotations

from typing import Any

from transformers import Pipeline
from transformers.image_utils import load_image


class ClipClassificationPipeline(Pipeline):
    """`nlp([frame, ...])` gives the best labels of a clip, [{"score": float, "label": str}].

    A frame is a path, an address or a PIL image. The model says how many it takes (`num_frames` in its config).
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        one = not inputs or not isinstance(inputs[0], (list, tuple))
        found = super().__call__([{"frames": clip} for clip in ([inputs] if one else inputs)], **kwargs)
        return found[0] if one else found

    def _sanitize_parameters(
        self, top_k: int | None = 5, **_: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {"top_k": top_k}

    def preprocess(self, inputs: Any, **_: Any) -> dict[str, Any]:
        frames = [load_image(frame) for frame in inputs["frames"]]
        return dict(self.image_processor(frames, return_tensors="pt"))

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"logits": self.model(**model_inputs)["logits"]}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int | None = 5) -> list[dict[str, Any]]:
        scores = model_outputs["logits"][0].float().softmax(-1)
        best = scores.topk(min(top_k or len(scores), len(scores)))
        labels = self.model.config.id2label
        return [{"score": float(s), "label": labels[int(i)]} for s, i in zip(best.values, best.indices, strict=True)]
