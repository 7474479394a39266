"""The next values of time series."""

from __future__ import annotations

from typing import Any

from transformers import Pipeline

from onnxport.runtime.preprocessing.series import context_of


class ForecastPipeline(Pipeline):
    """`pipeline(values)` gives the next values, (steps, channels) float32; as `runtime.tasks.forecasting`."""

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        return super().__call__({"values": inputs}, **kwargs)

    def _sanitize_parameters(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}

    def preprocess(self, inputs: Any, **_: Any) -> dict[str, Any]:
        import torch

        config = self.model.config
        values = context_of(inputs["values"], config.context_length, config.num_input_channels)
        return {"past_values": torch.from_numpy(values)[None]}

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"prediction_outputs": self.model(**model_inputs)["prediction_outputs"]}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> Any:
        return model_outputs["prediction_outputs"][0].float().numpy()
