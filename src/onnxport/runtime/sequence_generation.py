"""A converted encoder-decoder: arrays or texts in, texts out; numpy, tokenizers and onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import FolderError, UsageError
from onnxport.formats.json_file import read_object
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt, Stop, prefill
from onnxport.runtime.decoding.settings import GenerationSettings, known_settings, read_generation_config, settings_from
from onnxport.runtime.encoder import Encoder
from onnxport.runtime.generation import generate
from onnxport.runtime.graph_choice import choose_graphs
from onnxport.runtime.prompts.languages import Languages
from onnxport.runtime.prompts.tokenizer import FolderTokenizer
from onnxport.runtime.prompts.whisper import SpeechOptions, has_prompt, speech_prompt
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import grouped

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
_MODEL = "model"


class SequenceGenerator:
    """Writes about what an encoder reads: sound, images, or a text as tokens.

    `SequenceGenerator(folder)({"input_features": array})` gives a text for each row of the arrays.

    Args:
        folder: a folder with the graphs encoder_model and decoder_model_merged, by its path or opened already.
        component: "model", or "model_quantized" for the graphs whose names end like that; a graph that the folder
            has in one form alone is taken in that form.
        threads: threads of one operator; None lets ONNX Runtime choose.

    Raises:
        FolderError: no such folder, or not these graphs in it.
    """

    def __init__(self, folder: str | Path | Folder, component: str = _MODEL, threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder = opened.path
        encoder, decoder = _components(opened, component)
        self.encoder = Encoder(OnnxSession(opened, encoder, threads))
        self.decoder = Decoder(OnnxSession(opened, decoder, threads))
        self.said = read_generation_config(self.folder)
        self._texts: FolderTokenizer | None = None

    @property
    def texts(self) -> FolderTokenizer:
        """The folder's tokenizer.

        Raises:
            FolderError: it has no tokenizer.json.
        """
        self._texts = self._texts or FolderTokenizer(self.folder)
        return self._texts

    def settings(self, defaults: Mapping[str, Any] | None = None, **settings: Any) -> GenerationSettings:
        """The folder's settings with others."""
        return settings_from(self.said, defaults, **settings)

    def tokens(
        self,
        inputs: Mapping[str, Any],
        settings: GenerationSettings,
        first: NDArray[np.int64] | None = None,
        stop: Stop | None = None,
        spoken: SpeechOptions | None = None,
    ) -> list[list[int]]:
        """Answers as token ids without what they begin with, `num_return_sequences` for each row.

        Args:
            inputs: arrays (rows, ...) by the names of the encoder's graph; masks may be left out.
            first: (rows, tokens) int64, what every answer begins with in place of what the settings say.
            stop: ends answers beside `settings.eos_token_id`.
            spoken: language and task, for models that know several.

        Raises:
            UsageError: an input is missing or of another size, or there is no room for an answer.
        """
        prompt, settings = self._begun(inputs, settings, first, spoken)
        return generate(self.decoder, prompt, settings, stop=stop)

    @property
    def has_speech_prompt(self) -> bool:
        """Whether answers begin with tokens for a language and a task."""
        return has_prompt(self.said)

    def __call__(self, inputs: Any, language: Any = None, task: str | None = None, **settings: Any) -> Any:
        """Texts for the rows of `inputs`; as for `tokens`, with `language` and `task` of `SpeechOptions`."""
        return self._texts_of(inputs, self.settings(**settings), SpeechOptions(language, task))

    def _begun(
        self,
        inputs: Mapping[str, Any],
        settings: GenerationSettings,
        first: NDArray[np.int64] | None = None,
        spoken: SpeechOptions | None = None,
    ) -> tuple[Prompt, GenerationSettings]:
        """The encoder's part of the work."""
        rows = self.encoder.rows(inputs)
        fixed = self.encoder.encode(inputs)
        if first is None:
            first = self._first(settings, rows, fixed, spoken)
        if self.has_speech_prompt and settings.max_new_tokens is None and settings.max_length is not None:
            # Here max_length is without what the answer begins with, as Whisper's `generate` has it.
            longest = settings.max_length + first.shape[1]
            settings = settings.changed(max_length=min(longest, settings.positions or longest))
        read = np.asarray(inputs["input_ids"]) if "input_ids" in self.encoder.inputs else None
        return Prompt(first, fixed=fixed, read=read), settings

    def _first(
        self, settings: GenerationSettings, rows: int, fixed: Mapping[str, Any], spoken: SpeechOptions | None
    ) -> NDArray[np.int64]:
        start = settings.first_token()
        if self.has_speech_prompt:
            return speech_prompt(
                self.said,
                start,
                rows,
                spoken or SpeechOptions(),
                lambda ids: prefill(self.decoder, Prompt(ids, fixed=fixed))[1],
            )
        if spoken is not None and (spoken.language is not None or spoken.task is not None):
            raise UsageError("The model knows no languages or tasks by name.", hint="Leave language and task out.")
        return np.full((rows, 1), start, np.int64)

    def _texts_of(
        self, inputs: Mapping[str, Any], settings: GenerationSettings, spoken: SpeechOptions | None = None
    ) -> list[Any]:
        rows = self.tokens(inputs, settings, stop=self.texts.stop(settings.stop_strings), spoken=spoken)
        return grouped([self.texts.decode(row) for row in rows], settings.num_return_sequences)


class TextToTextGenerator(SequenceGenerator):
    """Writes a text from a text: a summary, a translation, an answer.

    `TextToTextGenerator(folder)("A long text.")` gives the new text; a list of texts gives a list. What config.json
    says for the folder's task (task_specific_params: a prefix, settings) holds where the caller says nothing else.

    Args:
        defaults: settings for what neither the folder nor the caller says.

    Raises:
        FolderError: also when there is no tokenizer.json.
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
        self.said |= own
        self._texts = FolderTokenizer(self.folder)
        self.languages = Languages(self.folder, self._texts.tokenizer)

    def __call__(  # type: ignore[override]
        self, inputs: str | Sequence[str], src_lang: str | None = None, tgt_lang: str | None = None, **settings: Any
    ) -> Any:
        """The new text, or a list for a list of texts.

        Args:
            src_lang, tgt_lang: of translators between many languages, in the model's own spelling ("eng_Latn").

        Raises:
            UsageError: a text without tokens, a setting or a language that does not exist, or no language said.
        """
        given = [inputs] if isinstance(inputs, str) else list(inputs)
        arrays, chosen = self._read(given, src_lang, tgt_lang, settings)
        answers = self._texts_of(arrays, chosen)
        return answers[0] if isinstance(inputs, str) else answers

    def stream(
        self, text: str, src_lang: str | None = None, tgt_lang: str | None = None, **settings: Any
    ) -> Iterator[str]:
        """Pieces of the new text as they come; together they are what a call gives. One text, and no beams."""
        arrays, chosen = self._read([text], src_lang, tgt_lang, settings)
        prompt, chosen = self._begun(arrays, chosen)
        yield from self.texts.stream(self.decoder, prompt, chosen)

    def _read(
        self, texts: Sequence[str], src_lang: str | None, tgt_lang: str | None, settings: Mapping[str, Any]
    ) -> tuple[dict[str, Any], GenerationSettings]:
        chosen, known = self.settings(self.defaults, **settings), self.languages
        first = known.first(tgt_lang, chosen.forced_bos_token_id, chosen.decoder_start_token_id)
        chosen = chosen.changed(forced_bos_token_id=first)
        ids, mask = self.texts.encode(
            [self.prefix + text for text in texts], chosen.pad_token_id, "right", replaced=known.read_as(src_lang)
        )
        return {"input_ids": ids, "attention_mask": mask}, chosen


def is_encoder_decoder(components: Sequence[str]) -> bool:
    """Whether the graphs of a folder, by name, are those of an encoder-decoder."""
    return any(name.startswith(ENCODER) for name in components) and any(name.startswith(DECODER) for name in components)


def _components(folder: Folder, component: str) -> tuple[str, str]:
    """The names of encoder and decoder."""
    known = folder.names
    if not is_encoder_decoder(known):
        raise FolderError(
            f"{folder.path} has no encoder and decoder: its graphs are {', '.join(known)}.",
            hint="Convert an encoder-decoder with `--task text2text-generation` or another task that generates.",
        )
    names = choose_graphs(folder.path, known, (ENCODER, DECODER), component)
    return names[0], names[1]


def _task_settings(folder: Folder) -> tuple[str, dict[str, Any]]:
    """The prefix and the settings that config.json has for the folder's task."""
    file = folder.path / "config.json"
    config = read_object(file) if file.is_file() else {}
    row = (config.get("task_specific_params") or {}).get(folder.manifest.task) or {}
    own: dict[str, Any] = {}
    for name, value in row.items():
        try:
            own |= known_settings({name: value}) if value is not None else {}
        except UsageError:  # what is no setting is for others
            continue
    return row.get("prefix") or config.get("prefix") or "", own
