"""The pipeline of a checkpoint without a tokenizer or processor: tensors in, outputs out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Pipeline

from onnxport.errors import UsageError


class BarePipeline(Pipeline):
    """Runs a model on tensors that the caller made: `nlp({"input_ids": tensor})`.

    Returns a dict of output name to tensor. A text or an image raises UsageError.
    """

    _load_tokenizer = None
    _load_image_processor = None
    _load_feature_extractor = None
    _load_processor = None

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    def preprocess(self, inputs: Any, **_: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            raise UsageError(
                f"This checkpoint has no tokenizer or processor, so a {type(inputs).__name__} cannot be prepared.",
                hint="Give one (`tokenizer=`, `image_processor=`), or a dict of tensors.",
            )
        return dict(inputs)

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return dict(self.model(**model_inputs, **kwargs).items())

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        return model_outputs
