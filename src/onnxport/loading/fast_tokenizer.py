"""The tokenizer.json of a folder gives the tokens of the source's tokenizer.

The run time has the `tokenizers` package only. A checkpoint's own file is used if it gives the tokens of transformers'
tokenizer on texts in several languages: tokenizer_config.json may change what the file says, such as lower case.
Tokenizers that transformers runs in Python (SentencePiece without a fast class, word lists) get a file, if one can be
made that gives their tokens.
"""

from __future__ import annotations

import string
from itertools import pairwise
from pathlib import Path
from typing import Any

_SPACE = "\u2581"  # SentencePiece's
# Scripts, accents, digits, punctuation, runs of spaces, emoji, a control character.
_TEXTS = (
    "This is a photo of a cat.",
    "  Ada Lovelace wrote the first program,\tin 1843 (with 3.14%)!  ",
    "東京は日本の首都です。 Привет, мир! Ça va? Grüße aus Köln — İstanbul'da.",
    "مرحبا بالعالم, שלום, नमस्ते दुनिया, สวัสดีชาวโลก, 안녕하세요",
    "emoji 🙂👩‍💻 and ﬁ ligatures, Ⅷ, ½, e\u0301, zero\u200bwidth, a_b-c/d\\e {x} <y> [z]",
    "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHF",
    "A1B2.C3-X*Z",
    "MIXED Case Words and   many    spaces\nnew lines",
    "x",
    "",
)


def write_tokenizer_json(tokenizer: Any, folder: Path) -> None:
    """Give a folder a tokenizer.json that gives the tokens of a tokenizer, if that is possible.

    Args:
        tokenizer: of transformers, or None.
        folder: has a tokenizer.json already if the checkpoint or the tokenizer has one.
    """
    file = folder / "tokenizer.json"
    made = corrected_json(tokenizer, file) if file.exists() else tokenizer_json(tokenizer)
    if made is not None:
        file.write_text(made, encoding="utf-8")


def corrected_json(tokenizer: Any, file: Path) -> str | None:
    """The tokenizer's own description, if the tokens of the file differ from its tokens; None if all is well."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from tokenizers import Tokenizer

    try:
        known = Tokenizer.from_file(str(file))
        known.no_truncation()
        known.no_padding()
        if _agrees(known, tokenizer):
            return None
        made = Tokenizer.from_str(backend.to_str())
        made.no_truncation()
        made.no_padding()
        return str(made.to_str()) if _agrees(made, tokenizer) else None
    except Exception:  # it takes something else than texts, such as words with boxes
        return None


def tokenizer_json(tokenizer: Any) -> str | None:
    """The tokenizer.json of a tokenizer; None for one that has its own, or that cannot be described by one.

    Args:
        tokenizer: of transformers.
    """
    if tokenizer is None or getattr(tokenizer, "is_fast", True):
        return None
    try:
        made = _from_sentencepiece(tokenizer) if hasattr(tokenizer, "sp_model") else _from_words(tokenizer)
        return str(made.to_str()) if made is not None and _agrees(made, tokenizer) else None
    except Exception:  # a tokenizer of a kind that nobody knows here keeps its own files
        return None


def _from_words(tokenizer: Any) -> Any:
    """One that knows its tokens as words without pieces, such as the amino acids of ESM.

    Every token is found wherever it stands in a text; what lies between tokens is one unknown word.
    """
    if not hasattr(tokenizer, "unique_no_split_tokens"):
        return None
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    vocabulary = {token: number for token, number in tokenizer.get_vocab().items() if token}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=tokenizer.unk_token))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = set(tokenizer.all_special_tokens)
    made.add_tokens([AddedToken(token, normalized=False, special=token in special) for token in vocabulary])
    made.post_processor = _template(tokenizer)
    return made


def _from_sentencepiece(tokenizer: Any) -> Any:
    """One with a SentencePiece model of pieces and their probabilities."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = tokenizer.sp_model
    size = model.get_piece_size()
    if not hasattr(tokenizer, "canonicalize_text"):  # SigLIP's; the others have fast classes
        return None
    pieces = [(model.id_to_piece(number), model.get_score(number)) for number in range(size)]
    made = Tokenizer(models.Unigram(pieces, unk_id=model.unk_id()))
    steps = [normalizers.Prepend(_SPACE), *([normalizers.Lowercase()] if tokenizer.do_lower_case else [])]
    charsmap = _charsmap(model)
    steps += [
        normalizers.Replace(Regex(f"[{_escaped(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
        *([normalizers.Precompiled(charsmap)] if charsmap else []),
    ]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never")
    special = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in tokenizer.all_special_tokens]
    made.add_special_tokens(special)
    made.post_processor = _template(tokenizer)
    return made


def _charsmap(model: Any) -> bytes:
    """The table of character replacements of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2 as files

    proto = files.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.serialized_model_proto())
    return bytes(proto.normalizer_spec.precompiled_charsmap)


def _escaped(characters: str) -> str:
    return "".join(f"\\{character}" for character in characters)


def _template(tokenizer: Any) -> Any:
    """The special tokens around a text and around a pair, as the tokenizer puts them."""
    from tokenizers.processors import TemplateProcessing

    single = tokenizer.build_inputs_with_special_tokens([-1])
    pair = tokenizer.build_inputs_with_special_tokens([-1], [-2])
    names = {number: tokenizer.convert_ids_to_tokens(number) for number in {*single, *pair} if number >= 0}

    def pieces(ids: list[int]) -> list[str]:
        return [{-1: "$A", -2: "$B"}.get(number) or names[number] for number in ids]

    return TemplateProcessing(
        single=pieces(single), pair=pieces(pair), special_tokens=[(name, number) for number, name in names.items()]
    )


def _agrees(made: Any, tokenizer: Any) -> bool:
    """Whether both give the same ids for every text, and for pairs."""
    texts = [text for text in _TEXTS if text]
    pairs = pairwise(texts)
    return all(made.encode(text).ids == tokenizer(text)["input_ids"] for text in texts) and all(
        made.encode(one, other).ids == tokenizer(one, other)["input_ids"] for one, other in pairs
    )
