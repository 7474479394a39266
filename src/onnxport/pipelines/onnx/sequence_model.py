"""Converted encoder-decoders as models of transformers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import UsageError
from onnxport.pipelines.onnx.model import OnnxModel, folder_config
from onnxport.runtime.prompts.whisper import SpeechOptions
from onnxport.runtime.sequence_generation import SequenceGenerator

# Arguments of `generate` that do not change the tokens of a converted model.
_IGNORED = frozenset({
    "use_cache", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions",
    "output_hidden_states", "cache_implementation", "transformers_version", "tokenizer", "is_multilingual",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "_from_model_config", "return_timestamps",
})  # fmt: skip


class OnnxSequenceModel(OnnxModel):
    """A model that generates with the encoder and the decoder of a folder.

    Args:
        folder: a folder with encoder_model and decoder_model_merged.
        component, threads: as for `SequenceGenerator`.

    Raises:
        FolderError: no onnxport folder, or its graphs cannot be loaded.
    """

    output_modalities = ("text",)

    def __init__(self, folder: str | Path | Folder, component: str = "model", threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder, self.manifest = opened.path, opened.manifest
        self.generator = SequenceGenerator(opened, component, threads)
        self.config = folder_config(self.folder)
        self._describe(self.generator.encoder.session)
        self.generation_config = generation_config_of(self.folder, self.config)

    def can_generate(self) -> bool:
        return True

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        language: Any = None,
        task: str | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        **keywords: Any,
    ) -> torch.Tensor:
        """Generate tokens, as transformers' `generate`.

        Args:
            inputs: (rows, ...) for the encoder's main input, if it is not in `keywords`.
            generation_config: settings; those in `keywords` replace them.
            language, task: for speech models with several.
            decoder_input_ids: (rows, tokens) first tokens of every answer.
            keywords: tensors by name, and settings.

        Returns:
            (rows, tokens) int64, padded on the right. The first tokens of the answers are included, except those for
            language and task.

        Raises:
            UsageError: a setting that is not supported, or inputs that do not fit.
        """
        configured = {} if generation_config is None else generation_config.to_diff_dict()
        settings = generation_settings(configured | keywords)
        tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
        if inputs is not None:
            tensors[self.main_input_name] = inputs
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        chosen = self.generator.settings(**settings)
        first = None if decoder_input_ids is None else decoder_input_ids.cpu().numpy()
        answers = self.generator.tokens(arrays, chosen, first, speech=SpeechOptions(_code(language), task))
        starts: list[list[int]] = [[] for _ in answers]
        if first is not None:
            starts = first.repeat(chosen.num_return_sequences, 0).tolist()
        elif not self.generator.has_speech_prompt:
            starts = [[chosen.first_token()] for _ in answers]
        whole = [[*start, *answer] for start, answer in zip(starts, answers, strict=True)]
        padded = np.full((len(whole), max(map(len, whole))), chosen.pad_token_id, np.int64)
        for row, tokens in zip(padded, whole, strict=True):
            row[: len(tokens)] = tokens
        return torch.from_numpy(padded)


def generation_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are settings.

    Raises:
        UsageError: timestamps are asked for.
    """
    if values.get("return_timestamps") or values.get("return_segments"):
        raise UsageError("Timestamps are not supported.", hint="Leave return_timestamps out.")
    return {
        name: value
        for name, value in values.items()
        if name not in _IGNORED and not isinstance(value, torch.Tensor) and value is not None
    }


def _code(language: Any) -> Any:
    """Whisper's codes for names of languages."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    if isinstance(language, str):
        return TO_LANGUAGE_CODE.get(language.lower(), language)
    return language if language is None else [_code(one) for one in language]


def generation_config_of(folder: Path, config: Any) -> GenerationConfig:
    """The folder's generation_config.json, or without that file the settings in config.json."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)
