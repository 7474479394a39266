"""Converted models for texts with images, as models of transformers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from onnxport.artifact.folder import Folder, open_folder
from onnxport.pipelines.onnx.model import OnnxModel, folder_config
from onnxport.pipelines.onnx.sequence_model import generation_config_of, generation_settings
from onnxport.runtime.image_text_generation import ImageTextGenerator


class OnnxImageTextModel(OnnxModel):
    """A model that generates with the graphs of a folder.

    Args:
        folder: a folder with vision_encoder, embed_tokens and decoder_model_merged.
        component, threads: as for `ImageTextGenerator`.

    Raises:
        FolderError: no onnxport folder, or its graphs cannot be loaded.
    """

    output_modalities = ("text",)

    def __init__(self, folder: str | Path | Folder, component: str = "model", threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder, self.manifest = opened.path, opened.manifest
        self.generator = ImageTextGenerator(opened, component, threads)
        self.config = folder_config(self.folder)
        self._describe(self.generator.reader.session)
        self.main_input_name, self.input_modalities = "input_ids", ("image", "text")
        self.generation_config = generation_config_of(self.folder, self.config)

    def can_generate(self) -> bool:
        return True

    def generate(
        self, inputs: torch.Tensor | None = None, generation_config: GenerationConfig | None = None, **keywords: Any
    ) -> torch.Tensor:
        """Generate tokens, as transformers' `generate`.

        Args:
            inputs: `input_ids`, if they are not in `keywords`.
            generation_config: settings; those in `keywords` replace them.
            keywords: tensors by name, from the model's processor, and settings.

        Returns:
            (rows, tokens) int64: prompt and answer, padded on the right.

        Raises:
            UsageError: a setting that is not supported, or inputs that do not fit.
        """
        configured = {} if generation_config is None else generation_config.to_diff_dict()
        tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
        if inputs is not None:
            tensors["input_ids"] = inputs
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        chosen = self.generator.settings(**generation_settings(configured | keywords))
        answers = self.generator.tokens(arrays, chosen)
        prompts = arrays["input_ids"].repeat(chosen.num_return_sequences, 0)
        longest = max(map(len, answers))
        padded = np.full((len(answers), longest), chosen.pad_token_id, np.int64)
        for row, tokens in zip(padded, answers, strict=True):
            row[: len(tokens)] = tokens
        return torch.from_numpy(np.concatenate([prompts, padded], 1))
