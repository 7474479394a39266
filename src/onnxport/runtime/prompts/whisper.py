"""The first tokens of a Whisper answer: start token, language, task, and "no timestamps".

`generation_config.json` of such a model lists its languages and tasks. A language that is not given is detected in
the sound. Source: `_retrieve_init_tokens` of transformers (models/whisper/generation_whisper.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError, did_you_mean

Ids = NDArray[np.int64]
# Any of these keys means that answers begin with more than a start token.
_KEYS = ("lang_to_id", "task_to_id", "no_timestamps_token_id", "forced_decoder_ids")
# First tokens (rows, tokens) -> the logits after them, (rows, vocabulary).
RunDecoder = Callable[[Ids], NDArray[np.float32]]


@dataclass(frozen=True)
class SpeechOptions:
    """What the caller knows about recordings.

    Attributes:
        language: "en" or "<|en|>", or one for each recording; None to detect it.
        task: "transcribe" or "translate".
        timestamps: the answer has timestamps, so it does not begin with the token that says that it has none.
    """

    language: str | Sequence[str] | None = None
    task: str | None = None
    timestamps: bool = False


def has_speech_prompt(generation_config: Mapping[str, Any]) -> bool:
    """Whether answers begin with tokens for language and task."""
    return any(name in generation_config for name in _KEYS)


def speech_prompt(
    generation_config: Mapping[str, Any], start_token: int, rows: int, options: SpeechOptions, run: RunDecoder
) -> Ids:
    """The first tokens of every answer.

    Args:
        generation_config: generation_config.json; its `language` and `task` are used where `options` has none.
        start_token: the first of them.
        rows: number of recordings.
        run: runs the decoder on first tokens, to detect the language.

    Returns:
        (rows, tokens) int64.

    Raises:
        UsageError: a language or a task that the model does not have, or timestamps are asked for.
    """
    config = generation_config
    language = options.language if options.language is not None else config.get("language")
    task = options.task if options.task is not None else config.get("task")
    _check_supported(config, language, task, timestamps=options.timestamps)
    columns: list[Ids] = [np.full(rows, start_token, np.int64)]
    forced = _forced_tokens(config) if language is None and task is None else []
    if language is not None:
        columns.append(_language_tokens(config, language, rows))
    elif "lang_to_id" in config and (not forced or forced[0] is None):
        columns.append(_detect_language(config, run(columns[0][:, None])))
        forced = forced[1:]
    single = [*forced, _task_token(config, language, task)]
    columns += [np.full(rows, token, np.int64) for token in single if token is not None]
    no_timestamps = config.get("no_timestamps_token_id")
    if no_timestamps is not None and (columns[-1][0] != no_timestamps) != options.timestamps:
        # It is appended where it is missing, or taken away where it is there.
        columns = columns[:-1] if options.timestamps else [*columns, np.full(rows, no_timestamps, np.int64)]
    return np.stack(columns, 1)


def _check_supported(config: Mapping[str, Any], language: Any, task: str | None, *, timestamps: bool) -> None:
    if config.get("return_timestamps") and not timestamps:
        raise UsageError(
            "generation_config.json asks for timestamps, which arrays alone do not get.",
            hint="Use onnxport.pipeline(FOLDER), or remove return_timestamps from generation_config.json.",
        )
    if config.get("is_multilingual") is False and (language is not None or task is not None):
        raise UsageError("This model has one language and one task.", hint="Leave language and task out.")


def _forced_tokens(config: Mapping[str, Any]) -> list[int | None]:
    """The tokens at positions 1, 2, ... of `forced_decoder_ids`, which older files have; None is the language.

    Raises:
        UsageError: a position is missing.
    """
    forced = sorted(config.get("forced_decoder_ids") or [], key=lambda pair: int(pair[0]))
    if [position for position, _ in forced] != list(range(1, len(forced) + 1)):
        raise UsageError(
            f"forced_decoder_ids={forced} in generation_config.json leaves a position out.",
            hint="Give language and task instead.",
        )
    return [token for _, token in forced]


def _task_token(config: Mapping[str, Any], language: Any, task: str | None) -> int | None:
    """The token of the task; with a language alone that of "transcribe"."""
    tasks: Mapping[str, int] = config.get("task_to_id") or {}
    if task is None:
        return tasks.get("transcribe") if language is not None else None
    if task not in tasks:
        raise UsageError(f"The model has no task {task!r}.", hint=did_you_mean(task, tasks))
    return tasks[task]


def _language_tokens(config: Mapping[str, Any], language: str | Sequence[str], rows: int) -> Ids:
    known = config.get("lang_to_id") or {}
    names = [language] * rows if isinstance(language, str) else list(language)
    if len(names) != rows:
        raise UsageError(
            f"There are {len(names)} languages for {rows} recordings.", hint="Give one for all, or one for each."
        )
    found = []
    for name in names:
        token = known.get(name, known.get(f"<|{name.lower()}|>"))
        if token is None:
            raise UsageError(f"The model has no language {name!r}.", hint=did_you_mean(f"<|{name.lower()}|>", known))
        found.append(token)
    return np.array(found, np.int64)


def _detect_language(config: Mapping[str, Any], logits: NDArray[np.float32]) -> Ids:
    """The most likely language of each row."""
    known = np.array(sorted(config["lang_to_id"].values()), np.int64)
    detected: Ids = known[logits[:, known].argmax(1)]
    return detected
