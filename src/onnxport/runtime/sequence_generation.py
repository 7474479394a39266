"""Text generation with a converted encoder-decoder; needs numpy, tokenizers and onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import FolderError, UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.closing import Closing
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt, Stop, prefill
from onnxport.runtime.decoding.settings import (
    GenerationSettings,
    checked_settings,
    read_generation_config,
    settings_from,
)
from onnxport.runtime.encoder import Encoder
from onnxport.runtime.generation import generate
from onnxport.runtime.graph_choice import choose_graphs
from onnxport.runtime.preprocessing.tokenizer_config import read_tokenizer_config
from onnxport.runtime.prompts.languages import Languages
from onnxport.runtime.prompts.tokenizer import FolderTokenizer
from onnxport.runtime.prompts.whisper import SpeechOptions, has_speech_prompt, speech_prompt
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import grouped

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
_MODEL = "model"


class SequenceGenerator(Closing):
    """Generates texts from the inputs of an encoder: sound, images, or token ids.

    `SequenceGenerator(folder)({"input_features": array})` returns a text for each row of the arrays.

    Args:
        folder: a folder with the graphs encoder_model and decoder_model_merged, by its path or opened already.
        component: "model"; or "model_quantized", for the variants with that suffix. A graph without such a variant
            is used as converted.
        threads: threads of one operator; None: as many as the process may use processors.

    Raises:
        FolderError: no such folder, or not these graphs in it.
    """

    def __init__(self, folder: str | Path | Folder, component: str = _MODEL, threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder = opened.path
        encoder, decoder = _components(opened, component)
        self.encoder = Encoder(OnnxSession(opened, encoder, threads))
        self.decoder = Decoder(OnnxSession(opened, decoder, threads))
        self.generation_config = read_generation_config(self.folder)
        self._texts: FolderTokenizer | None = None

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return (self.encoder.session, self.decoder.session)

    @property
    def texts(self) -> FolderTokenizer:
        """The folder's tokenizer.

        Raises:
            FolderError: it has no tokenizer.json.
        """
        self._texts = self._texts or FolderTokenizer(self.folder)
        return self._texts

    def settings(self, defaults: Mapping[str, Any] | None = None, **settings: Any) -> GenerationSettings:
        """The folder's settings, with these in their place; as `read_settings`."""
        return settings_from(self.generation_config, defaults, **settings)

    def tokens(
        self,
        inputs: Mapping[str, Any],
        settings: GenerationSettings,
        first: NDArray[np.int64] | None = None,
        stop: Stop | None = None,
        speech: SpeechOptions | None = None,
    ) -> list[list[int]]:
        """Answers as token ids without their first tokens, `num_return_sequences` for each row.

        Args:
            inputs: arrays (rows, ...) by the names of the encoder's inputs; masks are optional.
            first: (rows, tokens) int64, the first tokens of every answer. By default the start token, and for speech
                models the tokens for language and task.
            stop: ends answers beside `settings.eos_token_id`.
            speech: language and task, for models with several.

        Raises:
            UsageError: an input is missing or of another size, or there is no room for an answer.
        """
        prompt, settings = self.prompt(inputs, settings, first, speech)
        return generate(self.decoder, prompt, settings, stop=stop)

    @property
    def has_speech_prompt(self) -> bool:
        """Whether answers begin with tokens for a language and a task."""
        return has_speech_prompt(self.generation_config)

    def __call__(self, inputs: Any, language: Any = None, task: str | None = None, **settings: Any) -> Any:
        """Texts for the rows of `inputs`; as `tokens`, with the `language` and `task` of `SpeechOptions`."""
        return self._generate_texts(inputs, self.settings(**settings), SpeechOptions(language, task))

    def prompt(
        self,
        inputs: Mapping[str, Any],
        settings: GenerationSettings,
        first: NDArray[np.int64] | None = None,
        speech: SpeechOptions | None = None,
    ) -> tuple[Prompt, GenerationSettings]:
        """Run the encoder, and put the first tokens of the answers together; arguments and errors as for `tokens`.

        Returns:
            The prompt, and the settings with the length that it leaves.
        """
        rows = self.encoder.rows(inputs)
        encoded = self.encoder.encode(inputs)
        if first is None:
            first = self._first_tokens(settings, rows, encoded, speech)
        if self.has_speech_prompt and settings.max_new_tokens is None and settings.max_length is not None:
            # Whisper's `generate` does not count the first tokens in max_length.
            longest = settings.max_length + first.shape[1]
            settings = settings.changed(max_length=min(longest, settings.positions or longest))
        encoder_ids = np.asarray(inputs["input_ids"]) if "input_ids" in self.encoder.inputs else None
        return Prompt(first, encoder_inputs=encoded, encoder_ids=encoder_ids), settings

    def _first_tokens(
        self, settings: GenerationSettings, rows: int, encoded: Mapping[str, Any], speech: SpeechOptions | None
    ) -> NDArray[np.int64]:
        start = settings.first_token()
        if self.has_speech_prompt:

            def run(ids: NDArray[np.int64]) -> NDArray[np.float32]:
                return prefill(self.decoder, Prompt(ids, encoder_inputs=encoded))[1]

            return speech_prompt(self.generation_config, start, rows, speech or SpeechOptions(), run)
        if speech is not None and (speech.language is not None or speech.task is not None):
            raise UsageError(
                "This model has no languages or tasks to choose from.", hint="Leave language and task out."
            )
        return np.full((rows, 1), start, np.int64)

    def _generate_texts(
        self, inputs: Mapping[str, Any], settings: GenerationSettings, speech: SpeechOptions | None = None
    ) -> list[Any]:
        rows = self.tokens(inputs, settings, stop=self.texts.stop(settings.stop_strings), speech=speech)
        return grouped([self.texts.decode(row) for row in rows], settings.num_return_sequences)


class TextToTextGenerator(SequenceGenerator):
    """Generates a text from a text: a summary, a translation, an answer.

    `TextToTextGenerator(folder)("A long text.")` returns the new text; a list of texts returns a list. The prefix and
    the settings in config.json for the folder's task (task_specific_params) are used, unless the caller gives others.

    Args:
        defaults: settings that are used if neither the folder nor the caller gives them.

    Raises:
        FolderError: as `SequenceGenerator`, or no tokenizer.json.
    """

    def __init__(
        self,
        folder: str | Path | Folder,
        component: str = _MODEL,
        threads: int | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        opened = open_folder(folder)
        super().__init__(opened, component, threads)
        self.defaults = dict(defaults or {})
        self.prefix, own = _task_settings(opened)
        self.generation_config |= own
        self._texts = FolderTokenizer(self.folder)
        self.longest_input = read_tokenizer_config(self.folder, self._texts.tokenizer).max_length
        self.languages = Languages(self.folder, self._texts.tokenizer)

    def __call__(  # type: ignore[override]
        self, inputs: str | Sequence[str], src_lang: str | None = None, tgt_lang: str | None = None, **settings: Any
    ) -> Any:
        """The new text, or a list for a list of texts.

        Args:
            inputs: a text, or several.
            src_lang: of a multilingual translator, the language of the texts in the model's own spelling ("eng_Latn").
            tgt_lang: the language to translate into, likewise.
            settings: of the generation, by the names of transformers; and `truncation=True` cuts a text to the
                tokenizer's limit.

        Raises:
            UsageError: a text without tokens, a setting or a language that does not exist, or a missing language.
        """
        given = [inputs] if isinstance(inputs, str) else list(inputs)
        arrays, chosen = self._encode_texts(given, src_lang, tgt_lang, settings)
        answers = self._generate_texts(arrays, chosen)
        return answers[0] if isinstance(inputs, str) else answers

    def stream(
        self, text: str, src_lang: str | None = None, tgt_lang: str | None = None, **settings: Any
    ) -> Iterator[str]:
        """The new text piece by piece; together the pieces are what a call returns. Not with beam search."""
        arrays, chosen = self._encode_texts([text], src_lang, tgt_lang, settings)
        prompt, chosen = self.prompt(arrays, chosen)
        yield from self.texts.stream(self.decoder, prompt, chosen)

    def _encode_texts(
        self, texts: Sequence[str], src_lang: str | None, tgt_lang: str | None, settings: Mapping[str, Any]
    ) -> tuple[dict[str, Any], GenerationSettings]:
        given = dict(settings)
        longest = self.longest_input if given.pop("truncation", False) else None
        chosen, known = self.settings(self.defaults, **given), self.languages
        first = known.first_token(tgt_lang, chosen.forced_bos_token_id, chosen.decoder_start_token_id)
        chosen = chosen.changed(forced_bos_token_id=first)
        prefixed, replaced = [self.prefix + text for text in texts], known.source_replacements(src_lang)
        ids, mask = self.texts.encode(prefixed, chosen.pad_token_id, "right", replaced=replaced, longest=longest)
        return {"input_ids": ids, "attention_mask": mask}, chosen


def is_encoder_decoder(components: Sequence[str]) -> bool:
    """Whether a folder with these graphs is that of an encoder-decoder."""
    return any(name.startswith(ENCODER) for name in components) and any(name.startswith(DECODER) for name in components)


def _components(folder: Folder, component: str) -> tuple[str, str]:
    """The names of encoder and decoder."""
    known = folder.names
    if not is_encoder_decoder(known):
        raise FolderError(
            f"{folder.path} has no encoder and decoder: its graphs are {', '.join(known)}.",
            hint="Convert an encoder-decoder with `--task text2text-generation` or another task that generates text.",
        )
    names = choose_graphs(folder.path, known, (ENCODER, DECODER), component)
    return names[0], names[1]


def _task_settings(folder: Folder) -> tuple[str, dict[str, Any]]:
    """Prefix and settings in config.json for the folder's task."""
    file = folder.path / "config.json"
    config = read_object_if_present(file)
    row = (config.get("task_specific_params") or {}).get(folder.manifest.task) or {}
    own: dict[str, Any] = {}
    for name, value in row.items():
        try:
            own |= checked_settings({name: value}) if value is not None else {}
        except UsageError:  # not a setting of the generation
            continue
    return row.get("prefix") or config.get("prefix") or "", own
