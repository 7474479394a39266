"""What sentence-transformers' files say: prompts, pooling, and whether a prompt takes part in it.

The graph pools all tokens. Where a prompt must not take part (`include_prompt: false`), the token embeddings are pooled
here, as in the graph (`loading/sentence_transformers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.checkpoints.pooling_modes import POOLING_MODES, pooling_modes
from onnxport.errors import FolderError, UsageError, did_you_mean
from onnxport.formats.json_file import read_json, read_object_if_present

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SentenceModules:
    """The modules after the transformer, and the prompts.

    Attributes:
        kinds: their classes, in order: "Pooling", "Dense", "Normalize"; empty for a model without such files.
        modes: of the pooling.
        includes_prompt: the tokens of a prompt take part in the pooling.
        prompts: name -> prompt.
        default_prompt: name of the prompt that `encode` uses, or None.
    """

    kinds: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    includes_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def prompt(self, name: str | None, text: str | None) -> str:
        """The prompt that is asked for: `text`, or that of a name; "" for neither.

        Raises:
            UsageError: there is no prompt of that name.
        """
        if text is not None or name is None:
            return text or ""
        if name not in self.prompts:
            hint = did_you_mean(name, self.prompts) if self.prompts else "The model has no prompts: leave it out."
            raise UsageError(f"The model has no prompt {name!r}.", hint=hint)
        return self.prompts[name]

    def pool(self, tokens: Floats, first: int) -> Floats:
        """The sentence embedding of one text, without its first tokens.

        Args:
            tokens: (tokens, width).
            first: number of tokens that do not take part.

        Raises:
            UsageError: there are other modules beside the pooling; their weights are in the graph alone.
        """
        others = [kind for kind in self.kinds if kind not in ("Pooling", "Normalize")]
        if others:
            raise UsageError(
                f"A prompt cannot be left out of the pooling: {others[0]} follows it, whose weights are in the graph.",
                hint="Leave prompt and prompt_name out.",
            )
        mask = np.arange(len(tokens)) >= first
        pooled = np.concatenate([_pool(mode, tokens, mask) for mode in self.modes])
        if "Normalize" in self.kinds:
            pooled = normalized(pooled)
        return pooled


def normalized(vectors: Floats) -> Floats:
    """Vectors of length 1 (Euclidean, over the last axis)."""
    made: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return made


def read_sentence_modules(folder: Path) -> SentenceModules:
    """The modules and prompts of a folder; none where it is not that of a sentence encoder.

    Raises:
        CheckpointError: a file is not JSON.
        FolderError: a pooling mode is not known, or a module is outside of the folder.
    """
    if not (folder / "modules.json").is_file():
        return SentenceModules()
    entries = [entry for entry in read_json(folder / "modules.json") if isinstance(entry, dict)]
    kinds = tuple(str(entry.get("type", "")).rpartition(".")[2] for entry in entries)[1:]
    places = [str(entry.get("path") or "") for entry in entries if str(entry.get("type", "")).endswith("Pooling")]
    place = folder / places[0] if places else None
    if place is not None and not place.resolve().is_relative_to(folder.resolve()):
        raise FolderError(f"modules.json names a module outside of the folder ({places[0]!r}).", hint="Convert again.")
    pooling = read_object_if_present(place / "config.json") if place is not None else {}
    sentences = read_object_if_present(folder / "config_sentence_transformers.json")
    prompts = {str(name): str(text) for name, text in (sentences.get("prompts") or {}).items()}
    return SentenceModules(
        kinds, _modes(pooling), bool(pooling.get("include_prompt", True)), prompts, sentences.get("default_prompt_name")
    )


def _modes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    modes = pooling_modes(settings)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown:
        raise FolderError(f"The pooling mode {unknown[0]!r} is not known.", hint="Convert the model again.")
    return modes


def _pool(mode: str, tokens: Floats, mask: NDArray[np.bool_]) -> Floats:
    kept = tokens[mask]
    if not len(kept):
        return np.zeros(tokens.shape[-1], np.float32)
    if mode in ("cls", "lasttoken"):
        return np.asarray(kept[0 if mode == "cls" else -1], np.float32)
    if mode == "max":
        return np.asarray(kept.max(0), np.float32)
    weights = np.flatnonzero(mask) + 1.0 if mode == "weightedmean" else np.ones(len(kept))
    total = (kept * weights[:, None].astype(np.float32)).sum(0)
    count = np.sqrt(weights.sum()) if mode == "mean_sqrt_len_tokens" else weights.sum()
    return np.asarray(total / np.float32(count), np.float32)
