"""A folder's tokenizer: from texts to token ids and back, with the tokenizers package alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt, Stop
from onnxport.runtime.decoding.settings import GenerationSettings
from onnxport.runtime.generation import generate_tokens
from onnxport.runtime.tokenizer_file import read_tokenizer
from onnxport.system.library_errors import bad_input

# Further tokens that are decoded to look for a stop string: special ones have no text, and decoders strip the space
# of the first.
_MARGIN = 8
Ids = NDArray[np.int64]


class FolderTokenizer:
    """Encodes and decodes texts.

    Args:
        folder: has a tokenizer.json.

    Raises:
        FolderError: the file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = read_tokenizer(folder)
        self._lock = threading.Lock()  # truncation is a state of the tokenizer
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
        longest: int | None = None,
    ) -> tuple[Ids, Ids]:
        """Encode texts as rows of equal length.

        Args:
            texts: one for each row.
            padding: the token of padding.
            side: where padding goes.
            special: add the tokenizer's special tokens.
            replaced: special token that the tokenizer adds -> token in its place.
            longest: tokens to which a text is cut, with its special tokens; None cuts nothing.

        Returns:
            Ids and mask, (rows, tokens) int64; the mask is 0 where a token is padding.

        Raises:
            UsageError: no text, or a text without tokens.
        """
        other = replaced or {}
        with bad_input(UsageError, "The tokenizer of this folder cannot encode the texts", "Try another text."):
            made = self._encodings(texts, special, longest)
        rows = [
            [
                other.get(token, token) if added else token
                for token, added in zip(row.ids, row.special_tokens_mask, strict=True)
            ]
            for row in made
        ]
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise UsageError(f"The prompt {text!r} has no tokens.", hint="Give a text that is not empty.")
        if not rows:
            raise UsageError("There is no prompt.", hint="Give at least one text.")
        length = max(map(len, rows))
        ids = np.full((len(rows), length), padding, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            place = slice(length - len(row), None) if side == "left" else slice(len(row))
            ids[number, place], mask[number, place] = row, 1
        return ids, mask

    def _encodings(self, texts: Sequence[str], special: bool, longest: int | None) -> list[Any]:
        with self._lock:
            if longest is not None:
                self.tokenizer.enable_truncation(longest)
            try:
                return [self.tokenizer.encode(text, add_special_tokens=special) for text in texts]
            finally:
                self.tokenizer.no_truncation()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def stop(self, strings: Sequence[str]) -> Stop | None:
        """A function that tells whether an answer has one of `strings`; None if there are no strings."""
        if not strings:
            return None
        # Every token that is not special has at least one byte.
        tail = max(len(string.encode()) for string in strings) + _MARGIN

        def stopped(rows: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
            texts = [self.decode(row[-tail:]) for row in rows]
            return np.array([any(string in text for string in strings) for text in texts], bool)

        return stopped

    def stream(self, decoder: Decoder, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        """The answer to a prompt of one row, piece by piece as it is generated.

        Raises:
            UsageError: several answers, or beam search.
        """
        if settings.num_return_sequences > 1:
            raise UsageError(
                f"Streaming gives one answer; num_return_sequences is {settings.num_return_sequences}.",
                hint="Leave num_return_sequences out, or set it to 1.",
            )
        pieces = StreamDecoder(self)
        for tokens in generate_tokens(decoder, prompt, settings, stop=self.stop(settings.stop_strings)):
            if piece := pieces.add(int(tokens[0])):
                yield piece
        if rest := pieces.rest():
            yield rest


class StreamDecoder:
    """Decodes token by token; each step decodes the last few tokens alone."""

    def __init__(self, tokenizer: FolderTokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream: Any = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._pieces: list[str] = []

    def add(self, token: int) -> str:
        """The text that a token adds; "" while a character is incomplete."""
        self._tokens.append(token)
        piece = self._stream.step(self._tokenizer.tokenizer, token) or ""
        if piece:
            self._pieces.append(piece)
        return piece

    def rest(self) -> str:
        """The text that is left after the last token: bytes that are not a whole character."""
        whole, known = self._tokenizer.decode(self._tokens), "".join(self._pieces)
        return whole[len(known) :] if whole.startswith(known) else ""
