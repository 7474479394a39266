"""Texts and pairs of texts as token ids: truncation, windows, padding; with the tokenizers package alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.tokenizer_config import read_tokenizer_config
from onnxport.runtime.tokenizer_file import read_tokenizer
from onnxport.system.library_errors import bad_input

Row = dict[str, NDArray[Any]]
_STRATEGIES = ("longest_first", "only_first", "only_second")
# What transformers' `clean_up_tokenization` replaces, in its order.
_CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


@dataclass(frozen=True)
class EncodingSettings:
    """How a text is encoded; the names are those of transformers' tokenizers.

    Attributes:
        truncation: False, True ("longest_first"), or "longest_first", "only_first", "only_second",
            "do_not_truncate"; None cuts only if there is a `max_length`.
        max_length: tokens with the special ones; None takes the tokenizer's limit.
        stride: tokens by which two windows of a text that is cut overlap.
        add_special_tokens: put in what the model expects around a text.
        padding: False, True ("longest"), or "max_length".
        is_split_into_words: the text is a list of words.
    """

    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    add_special_tokens: bool = True
    padding: bool | str = False
    is_split_into_words: bool = False


_DEFAULT = EncodingSettings()


class TextEncoder:
    """A folder's tokenizer, with the settings that transformers reads from the same files. Threads may share it.

    Args:
        folder: has a tokenizer.json.

    Attributes:
        tokenizer: of the `tokenizers` package.
        config: lengths, sides and special tokens.

    Raises:
        FolderError: no tokenizer.json, or one that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = read_tokenizer(folder)
        self.config = read_tokenizer_config(folder, self.tokenizer)
        self.tokenizer.no_padding()
        if self.config.lower_case:
            from tokenizers import normalizers

            own, lower = self.tokenizer.normalizer, normalizers.Lowercase()
            self.tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
        self._lock = threading.Lock()  # truncation is a state of the tokenizer

    def token_id(self, name: str) -> int | None:
        """The id of a special token ("mask_token"), or None."""
        token = self.config.token(name)
        found: int | None = None if token is None else self.tokenizer.token_to_id(token)
        return found

    def encode(self, text: Any, pair: Any = None, settings: EncodingSettings = _DEFAULT) -> Any:
        """The `tokenizers.Encoding` of a text or a pair; its `overflowing` are the further windows of a long one.

        Raises:
            UsageError: not a text, an unknown strategy, or a limit that leaves no room for the text.
        """
        for one in (text, pair):
            if one is not None and not isinstance(one, str) and not settings.is_split_into_words:
                raise UsageError(f"A text is needed, not a {type(one).__name__}.", hint="Give a string.")
        strategy, length = self._truncation(settings)
        with self._lock:
            if strategy is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(
                    length, stride=settings.stride, strategy=strategy, direction=self.config.truncation_side
                )
            with bad_input(UsageError, "The text cannot be encoded", "Raise max_length, or give another text."):
                return self.tokenizer.encode(
                    text,
                    pair,
                    is_pretokenized=settings.is_split_into_words,
                    add_special_tokens=settings.add_special_tokens,
                )

    def row(self, encoding: Any, settings: EncodingSettings = _DEFAULT) -> Row:
        """The arrays of one encoding: `input_ids`, `attention_mask` and `token_type_ids`, (tokens,) int64."""
        row = {
            "input_ids": np.array(encoding.ids, np.int64),
            "attention_mask": np.array(encoding.attention_mask, np.int64),
            "token_type_ids": np.array(encoding.type_ids, np.int64),
        }
        if settings.padding == "max_length":
            length = settings.max_length or self.config.max_length
            return row if length is None else pad_row(row, self.padding(), max(length, len(encoding.ids)), self.side)
        return row

    def text_row(self, text: Any, pair: Any = None, settings: EncodingSettings = _DEFAULT) -> Row:
        """`row` of `encode`."""
        return self.row(self.encode(text, pair, settings), settings)

    @property
    def side(self) -> str:
        """The end that is padded, "left" or "right"."""
        return self.config.padding_side

    def padding(self) -> dict[str, int]:
        """Array -> the value of its padding; without `input_ids` where the tokenizer has no token for padding."""
        values = {"attention_mask": 0, "token_type_ids": self.config.pad_type}
        pad = self.token_id("pad_token")
        return values if pad is None else {"input_ids": pad, **values}

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """The text of token ids."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        if self.config.cleans_up and type(self.tokenizer.model).__name__ != "BPE":
            for old, new in _CLEAN_UP:
                text = text.replace(old, new)
        return text

    def join(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        decoder = self.tokenizer.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def special_tokens(self, pair: bool) -> int:
        """How many special tokens a text or a pair gets."""
        return int(self.tokenizer.num_special_tokens_to_add(pair))

    def _truncation(self, settings: EncodingSettings) -> tuple[str | None, int]:
        """Strategy and length; the strategy is None where nothing is cut."""
        asked = settings.truncation
        if asked is None:
            asked = settings.max_length is not None and settings.padding is False
        strategy = {True: "longest_first", False: None, "do_not_truncate": None}.get(asked, asked)
        if strategy is not None and strategy not in _STRATEGIES:
            raise UsageError(
                f"truncation={strategy!r} is not known.", hint=f"Use True, False, {', '.join(_STRATEGIES)}."
            )
        length = settings.max_length or self.config.max_length
        return (None, 0) if length is None else (strategy, length)


def pad_row(row: Mapping[str, NDArray[Any]], padding: Mapping[str, int], length: int, side: str) -> Row:
    """A row whose last axis is padded up to `length`, in the arrays that `padding` names."""
    made = {}
    for name, array in row.items():
        missing = length - array.shape[-1] if name in padding and array.ndim else 0
        if missing > 0:
            ends = (missing, 0) if side == "left" else (0, missing)
            widths = [(0, 0)] * (array.ndim - 1) + [ends]
            array = np.pad(array, widths, constant_values=padding[name])
        made[name] = array
    return made
