"""What an answer begins with where generation_config.json knows languages and tasks, as that of Whisper does.

The start token, a token for the language (found in the sound where nobody says it), one for the task, and one for
"no time stamps".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError, did_you_mean

Ids = NDArray[np.int64]
# Any of these makes a prompt of more than a start token.
_SIGNS = ("lang_to_id", "task_to_id", "no_timestamps_token_id", "forced_decoder_ids")
# First tokens -> the logits after them, (rows, vocabulary).
DetectLanguage = Callable[[Ids], NDArray[np.float32]]


@dataclass(frozen=True)
class SpeechOptions:
    """What the caller knows of a recording.

    Attributes:
        language: "en" or "<|en|>", or one for each row; None is found in the sound.
        task: "transcribe" or "translate".
    """

    language: str | Sequence[str] | None = None
    task: str | None = None


def has_prompt(said: Mapping[str, Any]) -> bool:
    """Whether answers begin with more than a start token, by what generation_config.json says."""
    return any(name in said for name in _SIGNS)


def speech_prompt(said: Mapping[str, Any], first: int, rows: int, spoken: SpeechOptions, listen: DetectLanguage) -> Ids:
    """The first tokens of every answer.

    Args:
        said: generation_config.json; `language` and `task` in it hold where `spoken` has none.
        first: the start token.
        listen: runs the decoder on first tokens, to find the language.

    Returns:
        (rows, tokens) int64.

    Raises:
        UsageError: a language or a task that the model does not know.
    """
    if said.get("return_timestamps"):
        raise UsageError(
            "generation_config.json asks for time stamps, which onnxport.runtime does not do yet.",
            hint="Take return_timestamps out of generation_config.json.",
        )
    language = spoken.language if spoken.language is not None else said.get("language")
    task = spoken.task if spoken.task is not None else said.get("task")
    if said.get("is_multilingual") is False and (language is not None or task is not None):
        raise UsageError("This model knows one language and one task.", hint="Leave language and task out.")
    tokens: list[Ids] = [np.full(rows, first, np.int64)]
    if language is None and task is None:
        tokens += [np.full(rows, -1 if token is None else token, np.int64) for token in _forced(said)]
    found = None
    if language is not None:
        found = _languages(said, language, rows)
    elif "lang_to_id" in said and (len(tokens) == 1 or tokens[1][0] < 0):
        found = _detect_language(said, listen(tokens[0][:, None]))
    if found is not None:
        tokens[1:2] = [found]
    tasks = said.get("task_to_id") or {}
    if task is not None:
        if task not in tasks:
            raise UsageError(f"The model has no task {task!r}.", hint=did_you_mean(task, tasks))
        tokens.append(np.full(rows, tasks[task], np.int64))
    elif language is not None and "transcribe" in tasks:
        tokens.append(np.full(rows, tasks["transcribe"], np.int64))
    silent = said.get("no_timestamps_token_id")
    if silent is not None and tokens[-1][0] != silent:
        tokens.append(np.full(rows, silent, np.int64))
    return np.stack([token for token in tokens if token[0] >= 0], 1)


def _forced(said: Mapping[str, Any]) -> list[int | None]:
    """Tokens that older files force at positions 1, 2, ...; None is a language to be found.

    Raises:
        UsageError: a position is left out.
    """
    forced = sorted(said.get("forced_decoder_ids") or [], key=lambda pair: int(pair[0]))
    if [position for position, _ in forced] != list(range(1, len(forced) + 1)):
        raise UsageError(
            f"forced_decoder_ids={forced} leaves a position out.", hint="Give language and task in its place."
        )
    return [token for _, token in forced]


def _languages(said: Mapping[str, Any], language: str | Sequence[str], rows: int) -> Ids:
    known = said.get("lang_to_id") or {}
    names = [language] * rows if isinstance(language, str) else list(language)
    if len(names) != rows:
        raise UsageError(f"There are {len(names)} languages for {rows} recordings.")
    found = []
    for name in names:
        token = known.get(name, known.get(f"<|{name.lower()}|>"))
        if token is None:
            raise UsageError(f"The model has no language {name!r}.", hint=did_you_mean(f"<|{name.lower()}|>", known))
        found.append(token)
    return np.array(found, np.int64)


def _detect_language(said: Mapping[str, Any], logits: NDArray[np.float32]) -> Ids:
    known = np.array(sorted(said["lang_to_id"].values()), np.int64)
    heard: Ids = known[logits[:, known].argmax(1)]
    return heard
