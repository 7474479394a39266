"""A folder's tokenizer: from texts to rows of tokens and back, by the tokenizers package alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import FolderError, UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt, Stop
from onnxport.runtime.decoding.settings import GenerationSettings
from onnxport.runtime.generation import generate_tokens

# Tokens without a text of their own that may stand in a stop string, and the first, of which decoders strip a space.
_MARGIN = 8
Ids = NDArray[np.int64]


class FolderTokenizer:
    """Texts as tokens.

    Args:
        folder: has a tokenizer.json.

    Raises:
        FolderError: it has none.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise FolderError(
                f"{folder} has no tokenizer.json, so texts cannot be made into tokens.",
                hint="Convert a checkpoint that has one; onnxport.runtime.generation takes token ids.",
            )
        self.tokenizer = Tokenizer.from_file(str(file))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def encode(
        self,
        texts: Sequence[str],
        padding: int,
        side: Literal["left", "right"],
        *,
        special: bool = True,
        replaced: Mapping[int, int] | None = None,
    ) -> tuple[Ids, Ids]:
        """Ids and mask, (rows, tokens) int64; `padding` fills rows up on one side.

        Args:
            special: with the tokens that the tokenizer adds to a text.
            replaced: others for some of those.

        Raises:
            UsageError: no text, or one without tokens.
        """
        other = replaced or {}
        made = [self.tokenizer.encode(text, add_special_tokens=special) for text in texts]
        rows = [
            [
                other.get(token, token) if added else token
                for token, added in zip(row.ids, row.special_tokens_mask, strict=True)
            ]
            for row in made
        ]
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise UsageError(f"The prompt {text!r} has no tokens.", hint="Give a text to go on from.")
        if not rows:
            raise UsageError("There is no prompt.")
        length = max(map(len, rows))
        ids = np.full((len(rows), length), padding, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            place = slice(length - len(row), None) if side == "left" else slice(len(row))
            ids[number, place], mask[number, place] = row, 1
        return ids, mask

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def stop(self, strings: Sequence[str]) -> Stop | None:
        """Whether an answer has come to one of `strings`; None for no string."""
        if not strings:
            return None
        # Every token but special ones has at least a byte.
        tail = max(len(string.encode()) for string in strings) + _MARGIN

        def stopped(rows: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
            texts = [self.decode(row[-tail:]) for row in rows]
            return np.array([any(string in text for string in strings) for text in texts], bool)

        return stopped

    def stream(self, decoder: Decoder, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        """Pieces of the one answer to a prompt of one row, as they come.

        Raises:
            UsageError: several answers are asked for.
        """
        if settings.num_return_sequences > 1:
            raise UsageError("A stream is one text.", hint="Give num_return_sequences=1.")
        pieces = StreamDecoder(self)
        for tokens in generate_tokens(decoder, prompt, settings, stop=self.stop(settings.stop_strings)):
            if piece := pieces.add(int(tokens[0])):
                yield piece
        if rest := pieces.rest():
            yield rest


class StreamDecoder:
    """The text of tokens as they come; each step looks at the last few alone."""

    def __init__(self, texts: FolderTokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._texts = texts
        self._stream: Any = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._told: list[str] = []

    def add(self, token: int) -> str:
        """What a token adds; "" while a character is incomplete."""
        self._tokens.append(token)
        piece = self._stream.step(self._texts.tokenizer, token) or ""
        if piece:
            self._told.append(piece)
        return piece

    def rest(self) -> str:
        """What is left when no token follows: bytes that became no character."""
        whole, told = self._texts.decode(self._tokens), "".join(self._told)
        return whole[len(told) :] if whole.startswith(told) else ""
