"""Encoder-decoders that turn a text into a text: summaries, translations, and whatever T5 was taught."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, Pipeline

from onnxport.errors import UsageError
from onnxport.pipelines.inputs import accepted_inputs

# The words that T5 was trained on, for checkpoints whose config.json lost its task_specific_params.
_T5_LANGUAGES = {"en": "English", "fr": "French", "de": "German", "ro": "Romanian"}


class TextToTextPipeline(Pipeline):
    """`nlp("a text")` gives [{"generated_text": str}], one dict for every returned sequence.

    A list of texts gives a list of dicts, or of lists with `num_return_sequences` above 1.
    `truncation=True` cuts a long text; other arguments go to `generate` (`max_new_tokens`,
    `num_beams`, `do_sample`, ...). config.json's task_specific_params for the task are used.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256, num_beams=4)

    result = "generated_text"

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The texts for one text or for each of a list."""
        found = super().__call__(inputs, *args, **kwargs)
        return [one[0] if len(one) == 1 else one for one in found] if isinstance(inputs, list) else found

    def _sanitize_parameters(
        self,
        truncation: Any = None,
        clean_up_tokenization_spaces: bool | None = None,
        return_tensors: bool | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **generate: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before = {"truncation": truncation, "src_lang": src_lang, "tgt_lang": tgt_lang}
        after = {"clean_up_tokenization_spaces": clean_up_tokenization_spaces, "return_tensors": return_tensors}
        return (
            {name: value for name, value in before.items() if value is not None},
            generate,
            {name: value for name, value in after.items() if value is not None},
        )

    def task_parameters(self) -> dict[str, Any]:
        """What config.json says for this task: a "prefix", and defaults of `generate`."""
        table = getattr(self.model.config, "task_specific_params", None) or {}
        return dict(table.get(self.task) or {})

    def preprocess(self, inputs: str, truncation: Any = False, **_: Any) -> dict[str, Any]:
        if not isinstance(inputs, str):
            raise UsageError(f"A text is needed, not a {type(inputs).__name__}.")
        prefix = self.task_parameters().get("prefix") or getattr(self.model.config, "prefix", None) or ""
        return self._filtered(self.tokenizer(prefix + inputs, return_tensors="pt", truncation=truncation))

    def _forward(self, model_inputs: dict[str, Any], **generate: Any) -> dict[str, Any]:
        known = vars(GenerationConfig())
        defaults = {name: value for name, value in self.task_parameters().items() if name in known}
        arguments = self._prepare_generate_kwargs({**defaults, **generate})
        batch = model_inputs["input_ids"].shape[0]
        sequences = self.model.generate(**model_inputs, **arguments)
        # (batch, sequences per text, tokens), so that a batch can be taken apart again
        return {"sequences": sequences.reshape(batch, -1, sequences.shape[-1])}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        clean_up_tokenization_spaces: bool = False,
        return_tensors: bool = False,
        **_: Any,
    ) -> list[dict[str, Any]]:
        sequences = model_outputs["sequences"][0]
        if return_tensors:
            return [{self.result.replace("_text", "_token_ids"): tokens} for tokens in sequences]
        return [
            {
                self.result: self.tokenizer.decode(
                    tokens, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
                )
            }
            for tokens in sequences
        ]

    def _filtered(self, encoded: Any) -> dict[str, Any]:
        # An encoder-decoder has no token types, but some tokenizers give them.
        return {name: encoded[name] for name in accepted_inputs(self.model, encoded)}


class SummarizationPipeline(TextToTextPipeline):
    """`nlp("a long text")` gives [{"summary_text": str}]."""

    result = "summary_text"


class TranslationPipeline(TextToTextPipeline):
    """`nlp("a text")` gives [{"translation_text": str}].

    The languages come from the task's name ("translation_en_to_fr"), or from `src_lang` and
    `tgt_lang` in the model's own spelling ("eng_Latn" for NLLB).
    """

    result = "translation_text"

    def preprocess(
        self,
        inputs: str,
        truncation: Any = False,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        languages = self.task.removeprefix("translation_").split("_to_") if "_to_" in self.task else []
        source = src_lang or (languages[0] if len(languages) == 2 else None)
        target = tgt_lang or (languages[1] if len(languages) == 2 else None)
        if hasattr(self.tokenizer, "_build_translation_inputs"):
            if source is None or target is None:
                raise UsageError(
                    "This model translates between many languages.",
                    hint="Give src_lang and tgt_lang, in the model's own spelling.",
                )
            encoded = self.tokenizer._build_translation_inputs(
                inputs, return_tensors="pt", truncation=truncation, src_lang=source, tgt_lang=target
            )
            first = encoded.pop("forced_bos_token_id", None)
            built = self._filtered(encoded)
            return built if first is None else {**built, "forced_bos_token_id": first}
        names = [_T5_LANGUAGES.get(language or "") for language in (source, target)]
        if all(names) and self.model.config.model_type == "t5" and not self.task_parameters().get("prefix"):
            inputs = f"translate {names[0]} to {names[1]}: {inputs}"
        return super().preprocess(inputs, truncation=truncation, **kwargs)

    def _forward(self, model_inputs: dict[str, Any], **generate: Any) -> dict[str, Any]:
        first = model_inputs.pop("forced_bos_token_id", None)
        if first is not None:
            generate["forced_bos_token_id"] = first[0] if isinstance(first, list) else first
        return super()._forward(model_inputs, **generate)
