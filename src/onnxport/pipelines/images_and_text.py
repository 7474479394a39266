"""A text about an image, and an answer to a question about an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, ImageTextToTextPipeline, Pipeline
from transformers.image_utils import load_image

from onnxport.errors import UsageError
from onnxport.pipelines.inputs import accepted_inputs


class ImageToTextPipeline(Pipeline):
    """`pipeline(image)` gives [{"generated_text": str}]; `prompt=` is the beginning of the text.

    An image is a path, an address or a PIL image. Other arguments go to `generate`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def _sanitize_parameters(
        self, prompt: str | None = None, timeout: float | None = None, **generate: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before = {"prompt": prompt, "timeout": timeout}
        return {name: value for name, value in before.items() if value is not None}, generate, {}

    def preprocess(self, image: Any, prompt: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        picture = load_image(image, timeout=timeout)
        inputs = dict(self.image_processor(images=picture, return_tensors="pt"))
        inputs = {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        if prompt is not None:
            if "input_ids" not in accepted_inputs(self.model, ["input_ids"]):
                raise UsageError(f"{type(self.model).__name__} writes about an image without a prompt.")
            tokens = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
            ids = tokens["input_ids"]
            if self.model.config.model_type == "git":  # its text begins with this token, also when it continues one
                start = ids.new_full((1, 1), self.tokenizer.cls_token_id)
                ids = ids.new_tensor([*start[0].tolist(), *ids[0].tolist()]).unsqueeze(0)
            inputs["input_ids"] = ids
        return inputs

    def _forward(self, model_inputs: dict[str, Any], **generate: Any) -> dict[str, Any]:
        batch = model_inputs["pixel_values"].shape[0]
        sequences = self.model.generate(**model_inputs, **self._prepare_generate_kwargs(generate))
        return {"sequences": sequences.reshape(batch, -1, sequences.shape[-1])}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
        return [
            {"generated_text": self.tokenizer.decode(tokens, skip_special_tokens=True)}
            for tokens in model_outputs["sequences"][0]
        ]


class ImageTextPipeline(ImageTextToTextPipeline):
    """`nlp(image, text="<image> What is this?")` gives [{"input_text": str, "generated_text": str}].

    transformers' pipeline, which also takes messages of a chat; settings of `generate` are taken as arguments.
    """

    def _sanitize_parameters(
        self, generate_kwargs: dict[str, Any] | None = None, **parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = vars(GenerationConfig())
        settings = {name: parameters.pop(name) for name in list(parameters) if name in known}
        settings |= generate_kwargs or {}
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(
            generate_kwargs=settings or None, **parameters
        )
        return split


class VisualQuestionAnsweringPipeline(Pipeline):
    """`nlp(image=image, question="What is it?")` gives [{"answer": str, "score": float}], best first.

    Models that write their answer give no score. Also takes a dict with both. `top_k` is the
    number of answers (default 5).
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _non_generation_params = ("top_k",)
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def _sanitize_parameters(
        self, top_k: int | None = None, timeout: float | None = None, truncation: Any = None, **generate: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before = {"timeout": timeout, "truncation": truncation}
        kept = {name: value for name, value in before.items() if value is not None}
        return kept, generate, {} if top_k is None else {"top_k": top_k}

    def __call__(self, image: Any, question: str | None = None, **kwargs: Any) -> Any:
        inputs = image if question is None else {"image": image, "question": question}
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, timeout: float | None = None, truncation: Any = True) -> dict[str, Any]:
        if not isinstance(inputs, Mapping) or not {"image", "question"} <= set(inputs):
            raise UsageError("Give an image and a question.", hint="nlp(image=..., question=...)")
        picture = load_image(inputs["image"], timeout=timeout)
        encoded = dict(self.tokenizer(inputs["question"], return_tensors="pt", truncation=truncation))
        for name, value in self.image_processor(images=picture, return_tensors="pt").items():
            encoded[name] = value.to(self.dtype) if value.is_floating_point() else value
        return {name: encoded[name] for name in accepted_inputs(self.model, encoded)}

    def _forward(self, model_inputs: dict[str, Any], **generate: Any) -> dict[str, Any]:
        if self.model.can_generate():
            return {"sequences": self.model.generate(**model_inputs, **self._prepare_generate_kwargs(generate))}
        return {"logits": self.model(**model_inputs)["logits"]}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int = 5, **_: Any) -> list[dict[str, Any]]:
        if "sequences" in model_outputs:
            texts = self.tokenizer.batch_decode(model_outputs["sequences"], skip_special_tokens=True)
            return [{"answer": text.strip()} for text in texts]
        # Every answer is judged for itself: several can be right.
        scores = model_outputs["logits"][0].float().sigmoid()
        best = scores.topk(min(top_k, len(scores)))
        labels = self.model.config.id2label
        return [
            {"answer": labels[place], "score": score}
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
