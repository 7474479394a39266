"""Texts about images and sounds, by encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.closing import Closing
from onnxport.runtime.decoding.settings import GenerationSettings, check_names
from onnxport.runtime.decoding.transcript import Transcript
from onnxport.runtime.preprocessing.images.load import load_image
from onnxport.runtime.preprocessing.images.processor import read_image_processor
from onnxport.runtime.preprocessing.sounds.extractors import WhisperSpectrogram, read_feature_extractor
from onnxport.runtime.preprocessing.sounds.load import load_sound
from onnxport.runtime.prompts.whisper import SpeechOptions
from onnxport.runtime.prompts.whisper_languages import language_code
from onnxport.runtime.sequence_generation import SequenceGenerator
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.tasks.whisper_fallback import NAMES as FALLBACK
from onnxport.runtime.tasks.whisper_fallback import reading_of
from onnxport.runtime.tasks.whisper_recording import (
    check_times,
    is_whisper,
    transcribe,
    windows_for,
    with_timestamps,
)

# The defaults of transformers' pipelines, for models without settings of their own.
_IMAGE_TO_TEXT = {"max_new_tokens": 256}
_SPEECH_TO_TEXT = {"max_new_tokens": 256, "num_beams": 5}
_WITHOUT_EFFECT = ("batch_size", "num_workers", "ignore_warning")
_SPEECH = ("language", "task", "return_timestamps", "chunk_length_s", "stride_length_s", *FALLBACK)


class _SequencePipeline(Closing):
    """What the two have in common: a generator, defaults of the call, and lists of inputs.

    Args:
        folder: with the graphs of an encoder-decoder.
        component: "model", or "model_quantized" for the variants with that suffix.
        task: its name.
        settings: defaults of the arguments of a call.
    """

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        self.task, self.folder, self.notes = task, folder.path, folder.manifest.notes
        self.generator = SequenceGenerator(folder, component)
        self.settings = settings

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return self.generator.sessions

    def _chosen(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        given = {**self.settings, **settings}
        further = given.pop("generate_kwargs", None) or {}
        return {name: value for name, value in {**given, **further}.items() if name not in _WITHOUT_EFFECT}

    def _texts(self, inputs: Mapping[str, Any], defaults: Mapping[str, Any], given: dict[str, Any]) -> list[str]:
        """The texts for one input."""
        language, task = given.pop("language", None), given.pop("task", None)
        chosen = {name: value for name, value in defaults.items() if not self._has(name) and name not in given}
        if "max_length" in given:
            chosen.pop("max_new_tokens", None)
        batch = {name: array[None] for name, array in inputs.items()}
        [answer] = self.generator(batch, language=language_code(language), task=task, **{**chosen, **given})
        return [answer] if isinstance(answer, str) else list(answer)

    def _has(self, name: str) -> bool:
        """Whether the folder has a setting, or one that takes its place."""
        known = self.generator.generation_config
        return name in known or (name == "max_new_tokens" and "max_length" in known)


class ImageToText(_SequencePipeline):
    """`pipeline("photo.png")` returns [{"generated_text": str}].

    An image is a path, an address or a PIL image; a list of them returns a list. Other arguments are those of
    `onnxport.runtime.decoding.settings.GenerationSettings`.

    Raises:
        FolderError: the folder has no image processor.
        UnknownPreprocessingError: an image processor that needs transformers.
    """

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        check_names(settings, _WITHOUT_EFFECT)
        self.images = read_image_processor(folder.path)
        super().__init__(folder, component, task, **settings)

    def __call__(
        self, inputs: Any, prompt: str | None = None, timeout: float | None = None, **settings: Any
    ) -> list[Any]:
        """The texts about an image, or about each of a list.

        Raises:
            UsageError: a prompt, which these models do not take; an image or a setting that cannot be used.
        """
        if prompt is not None:
            raise UsageError("The model writes about an image without a prompt.", hint="Leave prompt out.")
        if isinstance(inputs, (list, tuple)):
            return [self(one, timeout=timeout, **settings) for one in inputs]
        arrays = self.images(load_image(inputs, timeout))
        return [{"generated_text": text} for text in self._texts(arrays, _IMAGE_TO_TEXT, self._chosen(settings))]


class SpeechToText(_SequencePipeline):
    """`pipeline("speech.wav")` returns {"text": str}.

    A sound is a path, bytes of a file, an array at the model's sampling rate, or {"raw": array, "sampling_rate": int};
    a list of them returns a list. `language` and `task` are for models with several. Other arguments are those of
    `onnxport.runtime.decoding.settings.GenerationSettings`, also as `generate_kwargs={...}`.

    Raises:
        FolderError: the folder has no feature extractor.
        UnknownPreprocessingError: a feature extractor that needs transformers.
    """

    def __init__(self, folder: Folder, component: str, task: str, **settings: Any) -> None:
        check_names(settings, (*_WITHOUT_EFFECT, *_SPEECH))
        self.feature_extractor = read_feature_extractor(folder.path)
        super().__init__(folder, component, task, **settings)

    def __call__(
        self, inputs: Any, return_timestamps: Any = None, chunk_length_s: float | None = None, **settings: Any
    ) -> Any:
        """The words of a recording, or of each of a list.

        Args:
            inputs: a recording, or a list.
            return_timestamps: True for Whisper's segments with their times: "chunks" in the answer.
            chunk_length_s: cut a recording for Whisper into windows of so many seconds, of which `stride_length_s` is
                shared with the neighbour on each side, by default a sixth. Without it, a recording that is longer than
                the model takes is read segment by segment.
            settings: of the generation; for Whisper also `temperature` as a list, `compression_ratio_threshold`,
                `logprob_threshold` and `no_speech_threshold`, with the meaning that they have in transformers.

        Raises:
            UsageError: times of words, timestamps or windows of another model than Whisper, a sound or a setting that
                cannot be used.
        """
        given = {"return_timestamps": return_timestamps, "chunk_length_s": chunk_length_s}
        settings |= {name: value for name, value in given.items() if value is not None}
        if isinstance(inputs, (list, tuple)):
            return [self(one, **settings) for one in inputs]
        chosen = self._chosen(settings)
        samples = load_sound(inputs, self.feature_extractor.sampling_rate)
        cut = {name: chosen.pop(name, None) for name in ("chunk_length_s", "stride_length_s")}
        times = chosen.pop("return_timestamps", self.generator.generation_config.get("return_timestamps"))
        reader = self.feature_extractor
        is_long = is_whisper(self.folder) and len(samples) > (reader.longest or 0)
        if not (times or cut["chunk_length_s"] or is_long or self._has_fallback(chosen)):
            return {"text": self._texts(reader(samples), _SPEECH_TO_TEXT, chosen)[0]}
        if not is_whisper(self.folder) or not isinstance(reader, WhisperSpectrogram):
            raise UsageError(
                "Timestamps, windows and several temperatures are not supported for this model.",
                hint="Leave them out, and cut the recording into shorter ones.",
            )
        check_times(times)
        windows = windows_for(reader, *cut.values())
        # The model finds its way through a long recording by its timestamps.
        timed = bool(times) or (windows.length is None and is_long)
        transcript = self._transcribed(reader, windows.of(samples), timed, chosen)
        shows_times = "return_timestamps" not in (settings.get("generate_kwargs") or {})
        return {"text": transcript.text, **({"chunks": transcript.chunks} if times and shows_times else {})}

    def _has_fallback(self, given: Mapping[str, Any]) -> bool:
        """Whether a recording may be read several times."""
        if not is_whisper(self.folder):
            return isinstance(given.get("temperature"), (list, tuple))
        return bool(set(FALLBACK) & (set(given) | set(self.generator.generation_config)) - {"temperature"}) or (
            given.get("temperature") is not None
        )

    def _transcribed(self, reader: WhisperSpectrogram, windows: Any, timed: bool, given: dict[str, Any]) -> Transcript:
        language, task = language_code(given.pop("language", None)), given.pop("task", None)

        def settings(**values: Any) -> GenerationSettings:
            made = self.generator.settings(self._defaults(given), **values)
            return with_timestamps(self.generator, made) if timed else made

        config = read_object_if_present(self.folder / "config.json")
        reading = reading_of(settings, given, self.generator.generation_config, int(config.get("vocab_size", 0)))
        return transcribe(self.generator, reader, windows, reading, SpeechOptions(language, task, timestamps=timed))

    def _defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in _SPEECH_TO_TEXT.items()
            if not self._has(name) and not (name == "max_new_tokens" and "max_length" in given)
        }
