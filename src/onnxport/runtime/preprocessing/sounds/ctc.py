"""Texts from the tokens of a CTC model, by the vocab.json of its folder (Wav2Vec2CTCTokenizer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from onnxport.errors import FolderError, UnknownPreprocessingError
from onnxport.formats.json_file import read_object, read_object_if_present

_CLASS = "Wav2Vec2CTCTokenizer"


@dataclass(frozen=True)
class Piece:
    """A character or a word, and the frames that it was heard in: [first, last)."""

    text: str
    first: int
    last: int


@dataclass(frozen=True)
class CtcVocabulary:
    """The characters of a CTC model.

    Attributes:
        tokens: token -> its character.
        blank: the character that stands for none.
        unknown: the character of a token that is not in `tokens`.
        delimiter: the character between words.
        space: what it becomes in a text.
        lower_case: texts are lower-cased.
    """

    tokens: Mapping[int, str]
    blank: str = "<pad>"
    unknown: str = "<unk>"
    delimiter: str = "|"
    space: str = " "
    lower_case: bool = False

    def characters(self, frames: Sequence[int]) -> list[Piece]:
        """The characters in the best tokens of all frames: equal neighbours are one, and blanks are none."""
        pieces, place = [], 0
        for character, group in groupby(self.tokens.get(int(token), self.unknown) for token in frames):
            count = sum(1 for _ in group)
            if character != self.blank:
                shown = self.space if character == self.delimiter else character
                pieces.append(Piece(shown, place, place + count))
            place += count
        return pieces

    def text(self, characters: Sequence[Piece]) -> str:
        """The text of characters."""
        text = "".join(piece.text for piece in characters).strip()
        return text.lower() if self.lower_case else text

    def words(self, characters: Sequence[Piece]) -> list[Piece]:
        """The words of characters."""
        words = []
        for is_space, group in groupby(characters, lambda piece: piece.text == self.space):
            if not is_space:
                pieces = list(group)
                words.append(Piece("".join(piece.text for piece in pieces), pieces[0].first, pieces[-1].last))
        return words


def read_ctc_vocabulary(folder: Path) -> CtcVocabulary:
    """The characters of a folder's model.

    Raises:
        FolderError: no vocab.json, or not the vocabulary of its language.
        UnknownPreprocessingError: a tokenizer of another class.
    """
    config = read_object_if_present(folder / "tokenizer_config.json")
    special = read_object_if_present(folder / "special_tokens_map.json") | config
    name = config.get("tokenizer_class", _CLASS)
    if name != _CLASS:
        raise UnknownPreprocessingError(f"The tokenizer {name} of a CTC model")
    file = folder / "vocab.json"
    if not file.is_file():
        raise FolderError(f"{folder} has no vocab.json.", hint="Copy vocab.json of the checkpoint into the folder.")
    known: Any = read_object(file)
    if config.get("target_lang") is not None:
        known = known.get(config["target_lang"])
    if not isinstance(known, dict):
        raise FolderError(
            f"vocab.json has no language {config['target_lang']!r}.", hint="Convert the model with its own tokenizer."
        )
    tokens = {int(number): str(character) for character, number in known.items()}
    added = config.get("added_tokens_decoder") or {}
    tokens = {int(number): str(entry.get("content")) for number, entry in added.items()} | tokens
    return CtcVocabulary(
        tokens,
        blank=_content(special.get("pad_token"), "<pad>"),
        unknown=_content(special.get("unk_token"), "<unk>"),
        delimiter=_content(config.get("word_delimiter_token"), "|"),
        space=str(config.get("replace_word_delimiter_char", " ")),
        lower_case=bool(config.get("do_lower_case", False)),
    )


def _content(value: Any, default: str) -> str:
    """A special token: a string, or an object with a `content`."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else default
