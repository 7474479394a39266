"""Converted decoders with the interface of transformers' text-generation pipeline; needs no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.runtime.text_generation import TextGenerator


class ConvertedTextGeneration:
    """`pipeline("a text")` returns [{"generated_text": str}], the text with its continuation.

    A list of texts returns a list of such lists. `return_full_text=False` leaves the prompt out. Other arguments are
    those of `onnxport.runtime.decoding.settings.GenerationSettings`.
    """

    task = "text-generation"

    def __init__(self, folder: str | Path | Folder) -> None:
        self.generator = TextGenerator(folder)

    def __call__(self, texts: str | Sequence[str], return_full_text: bool = True, **settings: Any) -> list[Any]:
        prompts = [texts] if isinstance(texts, str) else list(texts)
        new = self.generator(prompts, **settings)
        whole = [prompt + text if return_full_text else text for prompt, text in zip(prompts, new, strict=True)]
        answers = [[{"generated_text": text}] for text in whole]
        return answers[0] if isinstance(texts, str) else answers
