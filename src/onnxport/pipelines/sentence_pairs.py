"""Whether one sentence follows another, and which of several endings fits best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Pipeline

from onnxport.errors import UsageError
from onnxport.pipelines.inputs import accepted_inputs


class _TextPipeline(Pipeline):
    """What the two have in common: a tokenizer, and tokenizer arguments from the call."""

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return kwargs, {}, {}

    def _tokenize(self, first: Sequence[str], second: Sequence[str], **kwargs: Any) -> dict[str, Any]:
        """Tensors (pairs, tokens) that the model takes; cut to the tokenizer's limit."""
        encoded = self.tokenizer(
            list(first), list(second), return_tensors="pt", **{"truncation": True, "padding": True, **kwargs}
        )
        return {name: encoded[name] for name in accepted_inputs(self.model, encoded)}


class NextSentencePredictionPipeline(_TextPipeline):
    """`nlp(text="It rains.", text_pair="The street is wet.")` gives {"is_next": bool, "score": float}.

    `score` is the probability that the second follows the first. Also takes a dict with both,
    or a list of dicts.
    """

    def __call__(
        self, inputs: Any = None, *, text: str | None = None, text_pair: str | None = None, **kwargs: Any
    ) -> Any:
        if inputs is None:
            inputs = {"text": text, "text_pair": text_pair}
        if isinstance(inputs, tuple) and len(inputs) == 2:
            inputs = dict(zip(("text", "text_pair"), inputs, strict=True))
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, **kwargs: Any) -> dict[str, Any]:
        first, second = (inputs.get(name) if isinstance(inputs, Mapping) else None for name in ("text", "text_pair"))
        if not first or not second or not isinstance(first, str) or not isinstance(second, str):
            raise UsageError("Give two sentences.", hint="nlp(text=..., text_pair=...)")
        return self._tokenize([first], [second], **kwargs)

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"logits": self.model(**model_inputs)["logits"]}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        score = float(model_outputs["logits"][0].float().softmax(-1)[0])  # class 0: the second follows
        return {"is_next": score >= 0.5, "score": score}


class MultipleChoicePipeline(_TextPipeline):
    """`nlp("It rains.", choices=["I get wet.", "I fly."])` gives the choices with scores, best first.

    Every item is {"choice": str, "score": float}; the scores sum to 1. Also takes a dict with
    `text` and `choices`, or a list of dicts.
    """

    def __call__(self, inputs: Any, *, choices: Sequence[str] | None = None, **kwargs: Any) -> Any:
        if choices is not None:
            inputs = {"text": inputs, "choices": list(choices)}
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any, **kwargs: Any) -> dict[str, Any]:
        choices = inputs.get("choices") if isinstance(inputs, Mapping) else None
        if not choices or not isinstance(inputs.get("text"), str):
            raise UsageError("Give a text and the choices.", hint="nlp(text, choices=[...])")
        encoded = self._tokenize([inputs["text"]] * len(choices), choices, **kwargs)
        return {**{name: tensor.unsqueeze(0) for name, tensor in encoded.items()}, "choices": list(choices)}

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        choices = model_inputs.pop("choices")
        return {"logits": self.model(**model_inputs)["logits"], "choices": choices}

    def postprocess(self, model_outputs: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
        scores = model_outputs["logits"][0].float().softmax(-1).tolist()
        answers = [
            {"choice": choice, "score": score} for choice, score in zip(model_outputs["choices"], scores, strict=True)
        ]
        return sorted(answers, key=lambda answer: -answer["score"])
