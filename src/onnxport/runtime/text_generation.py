"""A converted decoder as a writer of texts: numpy, tokenizers and onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import FolderError, UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.generation_settings import GenerationSettings, read_settings
from onnxport.runtime.next_token import next_tokens
from onnxport.runtime.session import OnnxSession

# What a tokenizer gives for bytes that are no whole character yet.
_INCOMPLETE = "\ufffd"


def generate_tokens(
    decoder: Decoder,
    input_ids: NDArray[np.int64],
    mask: NDArray[np.int64],
    settings: GenerationSettings,
    chunk: int | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Tokens, one a row at a time, until every row has ended.

    Args:
        input_ids, mask: (rows, tokens); padded on the left.
        chunk: most tokens of the prompt in one call, to bound memory; None is all.

    Yields:
        (rows,) int64; `settings.pad_token_id` for rows that ended before.
    """
    rng = np.random.default_rng(settings.seed)
    progress = decoder.start(len(input_ids))
    length = input_ids.shape[1]
    for start in range(0, length, chunk or length):
        end = start + (chunk or length)
        logits = decoder.step(progress, input_ids[:, start:end], mask[:, start:end])
    running = np.ones(len(input_ids), bool)
    seen = input_ids
    for made in range(settings.max_new_tokens):
        tokens = next_tokens(logits, seen, made, settings, rng)
        tokens = np.where(running, tokens, settings.pad_token_id)
        yield tokens
        running &= ~np.isin(tokens, settings.eos_token_id)
        if not running.any() or made + 1 == settings.max_new_tokens:
            return
        seen = np.concatenate([seen, tokens[:, None]], 1)
        logits = decoder.step(progress, tokens[:, None])


class TextGenerator:
    """Writes on where a text ends.

    `TextGenerator(folder)("Once upon a time", max_new_tokens=20)` gives the new text; a list of prompts
    gives a list. Settings are those of `GenerationSettings`; without them the folder's hold.

    Args:
        folder: a folder that onnxport wrote for text-generation.
        component: name of its graph.
        threads: threads of one operator; None lets ONNX Runtime choose.

    Raises:
        FolderError: no such folder, no tokenizer.json in it, or its graph does not generate.
    """

    def __init__(self, folder: str | Path, component: str = "model", threads: int | None = None) -> None:
        from tokenizers import Tokenizer

        self.folder = Path(folder).expanduser()
        self.decoder = Decoder(OnnxSession(self.folder, component, threads))
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            raise FolderError(
                f"{self.folder} has no tokenizer.json, so texts cannot be made into tokens.",
                hint="Convert a checkpoint that has one; `generate_tokens` of this module takes token ids.",
            )
        self.tokenizer = Tokenizer.from_file(str(file))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def __call__(self, prompt: str | Sequence[str], **settings: Any) -> Any:
        """The new text of a prompt, or a list for a list of them.

        Raises:
            UsageError: an empty prompt, or a setting that does not exist.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        chosen = read_settings(self.folder, **settings)
        rows: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for tokens in generate_tokens(self.decoder, *self._encoded(prompts, chosen), chosen):
            for row, token in enumerate(tokens.tolist()):
                if not ended[row]:
                    rows[row].append(token)
                    ended[row] = token in chosen.eos_token_id or self._stopped(rows[row], chosen)
            if all(ended):
                break
        texts = [self._decoded(row) for row in rows]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """Pieces of the new text as they come; together they are what a call gives."""
        chosen = read_settings(self.folder, **settings)
        made: list[int] = []
        told = ""
        for tokens in generate_tokens(self.decoder, *self._encoded([prompt], chosen), chosen):
            made.append(int(tokens[0]))
            text = self._decoded(made)
            if not text.endswith(_INCOMPLETE) and text.startswith(told) and text != told:
                yield text[len(told) :]
                told = text
            if self._stopped(made, chosen):
                break
        if (text := self._decoded(made)).startswith(told) and text != told:
            yield text[len(told) :]

    def _encoded(
        self, prompts: Sequence[str], settings: GenerationSettings
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        encoded = [self.tokenizer.encode(prompt).ids for prompt in prompts]
        for prompt, row in zip(prompts, encoded, strict=True):
            if not row:
                raise UsageError(f"The prompt {prompt!r} has no tokens.", hint="Give a text to go on from.")
        length = max(map(len, encoded), default=0)
        if not length:
            raise UsageError("There is no prompt.")
        ids = np.full((len(encoded), length), settings.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(encoded):
            ids[number, length - len(row) :] = row
            mask[number, length - len(row) :] = 1
        return ids, mask

    def _stopped(self, tokens: list[int], settings: GenerationSettings) -> bool:
        if not settings.stop_strings:
            return False
        text = self._decoded(tokens)
        return any(stop in text for stop in settings.stop_strings)

    def _decoded(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text
