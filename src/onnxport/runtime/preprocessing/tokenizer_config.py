"""What a folder says about its tokenizer, beside tokenizer.json: lengths, sides, and special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.prompts.special_tokens import special_tokens_in

Side = Literal["left", "right"]
# transformers writes 1e30 for "no limit".
_NO_LIMIT = 1e20
# Usual spellings, for a tokenizer_config.json that leaves a token to the class of the tokenizer (bert-base-uncased).
_USUAL = {
    "mask_token": ("[MASK]", "<mask>"),
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
}


@dataclass(frozen=True)
class TokenizerConfig:
    """The settings of a tokenizer.

    Attributes:
        max_length: tokens of the longest text with its special tokens; None for no limit.
        truncation_side, padding_side: the end that is cut or padded.
        pad_type: token type of padding.
        special: name of a special token ("mask_token") -> the token.
        cleans_up: a decoded text loses the spaces before punctuation.
        lower_case: texts are lower-cased before they are tokenized (sentence-transformers).
    """

    max_length: int | None = None
    truncation_side: Side = "right"
    padding_side: Side = "right"
    pad_type: int = 0
    special: Mapping[str, str] | None = None
    cleans_up: bool = False
    lower_case: bool = False

    def token(self, name: str) -> str | None:
        """A special token by its name, or None."""
        return (self.special or {}).get(name)


def read_tokenizer_config(folder: Path, tokenizer: Any) -> TokenizerConfig:
    """The settings in tokenizer_config.json, special_tokens_map.json and sentence_bert_config.json.

    Args:
        folder: the folder.
        tokenizer: its tokenizer, of the `tokenizers` package; it says on which side to cut and pad where the files
            do not.

    Raises:
        CheckpointError: a file is not a JSON object.
    """
    config = read_object_if_present(folder / "tokenizer_config.json")
    sentences = (
        read_object_if_present(folder / "sentence_bert_config.json") if (folder / "modules.json").is_file() else None
    )
    cut, padding = tokenizer.truncation or {}, tokenizer.padding or {}
    longest = config.get("model_max_length", config.get("max_len"))
    if sentences is not None:
        positions = read_object_if_present(folder / "config.json").get("max_position_embeddings")
        limits = [limit for limit in (longest, positions) if isinstance(limit, (int, float)) and limit > 0]
        longest = sentences.get("max_seq_length") or min(limits, default=None)
    special = special_tokens_in(read_object_if_present(folder / "special_tokens_map.json")) | special_tokens_in(config)
    if "pad_token" not in special and isinstance(padding.get("pad_token"), str):
        special["pad_token"] = padding["pad_token"]
    for name, spellings in _USUAL.items():
        found = next((token for token in spellings if tokenizer.token_to_id(token) is not None), None)
        if name not in special and found is not None:
            special[name] = found
    return TokenizerConfig(
        max_length=int(longest) if isinstance(longest, (int, float)) and 0 < longest < _NO_LIMIT else None,
        truncation_side=_side(config.get("truncation_side", cut.get("direction"))),
        padding_side=_side(config.get("padding_side", padding.get("direction"))),
        pad_type=int(config.get("pad_token_type_id", padding.get("pad_type_id", 0)) or 0),
        special=special,
        cleans_up=bool(config.get("clean_up_tokenization_spaces", False)),
        lower_case=bool((sentences or {}).get("do_lower_case", False)),
    )


def _side(value: Any) -> Side:
    return "left" if str(value).lower() == "left" else "right"
