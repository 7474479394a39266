"""Text generation with a converted decoder; needs numpy, tokenizers and onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.runtime.closing import Closing
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt
from onnxport.runtime.decoding.settings import GenerationSettings, read_settings
from onnxport.runtime.generation import generate
from onnxport.runtime.prompts.tokenizer import FolderTokenizer
from onnxport.runtime.session import OnnxSession

Message = Mapping[str, Any]


class TextGenerator(Closing):
    """Continues texts.

    `TextGenerator(folder)("Once upon a time", max_new_tokens=20)` returns the new text; a list of prompts returns a
    list. With `num_return_sequences` above 1 each prompt has a list of texts. Settings are those of
    `GenerationSettings`, and replace those of the folder's generation_config.json.

    Args:
        folder: a folder that onnxport wrote for text-generation, by its path or opened already.
        component: name of its graph.
        threads: threads of one operator; None: as many as the process may use processors.

    Raises:
        FolderError: no such folder, no tokenizer.json in it, or its graph cannot generate text.
    """

    def __init__(self, folder: str | Path | Folder, component: str = "model", threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder = opened.path
        self.decoder = Decoder(OnnxSession(opened, component, threads))
        self.texts = FolderTokenizer(self.folder)

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return (self.decoder.session,)

    def __call__(self, prompt: str | Sequence[str], **settings: Any) -> Any:
        """The new text after a prompt, or a list for a list of prompts.

        Raises:
            UsageError: an empty prompt, or a setting that does not exist or is out of range.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        answers = self._answers(prompts, read_settings(self.folder, **settings))
        return answers[0] if isinstance(prompt, str) else answers

    def chat(self, messages: Sequence[Message], template: Mapping[str, Any] | None = None, **settings: Any) -> Any:
        """The answer to a conversation, whose prompt the folder's chat template makes.

        Args:
            messages: `{"role": "user", "content": "..."}`, oldest first.
            template: variables of the template, such as `tools`.

        Raises:
            FolderError: the folder has no chat template.
            MissingDependencyError: Jinja2 is not installed.
            UsageError: the template raises an error.
        """
        text = self.prompt_of(messages, **(template or {}))
        return self._answers([text], read_settings(self.folder, **settings), special=False)[0]

    def prompt_of(self, messages: Sequence[Message], **variables: Any) -> str:
        """The prompt that the folder's chat template makes; raises as `chat`."""
        from onnxport.runtime.prompts.chat_template import render

        return render(self.folder, messages, **variables)

    def stream(self, prompt: str | Sequence[Message], **settings: Any) -> Iterator[str]:
        """The new text piece by piece; together the pieces are what a call returns, or `chat` for messages."""
        chosen = read_settings(self.folder, **settings)
        chat = not isinstance(prompt, str)
        text = self.prompt_of(prompt) if not isinstance(prompt, str) else prompt
        yield from self.texts.stream(self.decoder, self.encode([text], chosen, special=not chat), chosen)

    def encode(self, prompts: Sequence[str], settings: GenerationSettings, *, special: bool = True) -> Prompt:
        """Prompts as token ids, padded on the left.

        Args:
            special: add the tokenizer's special tokens; a chat template has its own.

        Raises:
            UsageError: no prompt, or one without tokens.
        """
        return Prompt(*self.texts.encode(prompts, settings.pad_token_id, "left", special=special))

    def _answers(self, prompts: Sequence[str], settings: GenerationSettings, *, special: bool = True) -> list[Any]:
        prompt = self.encode(prompts, settings, special=special)
        rows = generate(self.decoder, prompt, settings, stop=self.texts.stop(settings.stop_strings))
        return grouped([self.texts.decode(row) for row in rows], settings.num_return_sequences)


def grouped(texts: Sequence[str], answers: int) -> list[Any]:
    """One text for each prompt, or a list of `answers` texts for each."""
    if answers == 1:
        return list(texts)
    return [list(texts[first : first + answers]) for first in range(0, len(texts), answers)]
