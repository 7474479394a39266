"""Continuations of texts and answers in conversations, and texts from texts, with the calls of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.closing import Closing
from onnxport.runtime.decoding.settings import check_names
from onnxport.runtime.sequence_generation import TextToTextGenerator
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator

# The defaults of transformers' text-to-text pipelines, for models without settings of their own.
_TEXT_TO_TEXT = {"num_beams": 4, "max_new_tokens": 256}
_RESULTS = {"summarization": "summary_text", "translation": "translation_text"}
# The words that T5 was trained on, for checkpoints whose config.json lost its task_specific_params.
_T5_LANGUAGES = {"en": "English", "fr": "French", "de": "German", "ro": "Romanian"}
# Arguments of transformers' pipelines that change no result.
_WITHOUT_EFFECT = ("num_workers", "clean_up_tokenization_spaces")
_OWN = (*_WITHOUT_EFFECT, "batch_size")


class TextGeneration(Closing):
    """`pipeline("a text")` returns [{"generated_text": str}], the text with its continuation.

    A list of texts returns a list of such lists. `return_full_text=False` leaves the prompt out. A list of messages is
    a conversation: `generated_text` is then the list with the answer at its end. Other arguments are those of
    `onnxport.runtime.decoding.settings.GenerationSettings`, and `batch_size`, the texts that run together (all).

    Raises:
        FolderError: no tokenizer.json in the folder, or its graph cannot generate text.
    """

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        self.task, self.folder, self.notes = task, folder.path, folder.manifest.notes
        check_names(settings, (*_OWN, "return_full_text"))
        self.generator = TextGenerator(folder, component)
        self.settings = settings

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return self.generator.sessions

    def __call__(self, text_inputs: Any, return_full_text: bool | None = None, **settings: Any) -> list[Any]:
        chosen = _with_effect(self.settings | settings)
        whole = chosen.pop("return_full_text", True) if return_full_text is None else return_full_text
        if _is_conversation(text_inputs):
            return self._chat(text_inputs, whole, chosen)
        prompts: list[Any] = [text_inputs] if isinstance(text_inputs, str) else list(text_inputs)
        if prompts and all(_is_conversation(one) for one in prompts):
            return [self._chat(one, whole, chosen) for one in prompts]
        found = _in_batches(self.generator, prompts, chosen)
        answers = [
            [{"generated_text": prompt + text if whole else text} for text in _as_list(new)]
            for prompt, new in zip(prompts, found, strict=True)
        ]
        return answers[0] if isinstance(text_inputs, str) else answers

    def _chat(self, messages: Sequence[Mapping[str, Any]], whole: bool, settings: Mapping[str, Any]) -> list[Any]:
        answers = _as_list(self.generator.chat(messages, **settings))
        return [
            {"generated_text": [*messages, {"role": "assistant", "content": text}] if whole else text}
            for text in answers
        ]


class TextToText(Closing):
    """`pipeline("a text")` returns [{"generated_text": str}], one dict for every returned sequence.

    The name is "summary_text" for summarization and "translation_text" for translation. A list of texts returns a list
    of dicts, or of lists with `num_return_sequences` above 1. The languages of a translation come from the task's name
    ("translation_en_to_fr"), or from `src_lang` and `tgt_lang` in the model's spelling. `truncation=True` cuts a long
    text. Other arguments are those of `onnxport.runtime.decoding.settings.GenerationSettings`, and `batch_size`, the
    texts that run together (all).

    Raises:
        FolderError: no tokenizer.json in the folder, or not the graphs of an encoder-decoder.
    """

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        self.task, self.folder, self.notes = task, folder.path, folder.manifest.notes
        check_names(settings, (*_OWN, "src_lang", "tgt_lang", "truncation"))
        self.generator = TextToTextGenerator(folder, component, defaults=_TEXT_TO_TEXT)
        self.settings = settings
        self.prefix = self._languages()

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return self.generator.sessions

    def __call__(self, texts: str | Sequence[str], **settings: Any) -> list[Any]:
        given = [texts] if isinstance(texts, str) else list(texts)
        for text in given:
            if not isinstance(text, str):
                raise UsageError(f"A text is needed, not a {type(text).__name__}.", hint="Give a string.")
        name = _RESULTS.get(self.task.split("_")[0], "generated_text")
        found = _in_batches(
            self.generator, [self.prefix + text for text in given], _with_effect(self.settings | settings)
        )
        answers = [[{name: one} for one in _as_list(answer)] for answer in found]
        if isinstance(texts, str):
            return answers[0]
        return [answer[0] if len(answer) == 1 else answer for answer in answers]

    def _languages(self) -> str:
        """Take the languages from the task's name; returns what T5 wants before a text."""
        names = self.task.removeprefix("translation_").split("_to_") if "_to_" in self.task else []
        if len(names) != 2:
            return ""
        if self.generator.languages.ids:
            self.settings = dict(zip(("src_lang", "tgt_lang"), names, strict=True)) | self.settings
            return ""
        words = [_T5_LANGUAGES.get(name) for name in names]
        file = self.folder / "config.json"
        config = read_object_if_present(file)
        own = (config.get("task_specific_params") or {}).get(self.task, {}).get("prefix")
        if config.get("model_type") == "t5" and not own and all(words):
            return f"translate {words[0]} to {words[1]}: "
        return own or ""


def _in_batches(generator: Callable[..., list[Any]], texts: Sequence[str], settings: dict[str, Any]) -> list[Any]:
    """The answers of a generator, to `batch_size` texts at a time."""
    size = settings.pop("batch_size", None) or max(len(texts), 1)
    return [
        one for first in range(0, len(texts), size) for one in generator(list(texts[first : first + size]), **settings)
    ]


def _with_effect(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}


def _is_conversation(inputs: Any) -> bool:
    return isinstance(inputs, (list, tuple)) and bool(inputs) and all(isinstance(one, Mapping) for one in inputs)


def _as_list(answer: Any) -> list[str]:
    return [answer] if isinstance(answer, str) else list(answer)
