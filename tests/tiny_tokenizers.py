"""Tiny real tokenizers of every family, made from one small text.

Nothing is sampled and no file is needed: vocabularies are counted from the text, so two runs agree byte for byte.
"""

from __future__ import annotations

import json
import math
import re
import string
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase

MAX_LENGTH = 64

TEXT = (
    "Paris is the capital of France. London is the capital of England, and Ada lives in London.",
    "The cat sat on the mat. A dog ran over the road and a bird was in the tree.",
    "I love this film: it was a very good story. I hate that book, it was not good at all.",
    "Who wrote it? Ada wrote the first program in 1843. Where does she live? She lives in England.",
    "It rains, so the street is wet. The sun is out and we walk to the house on the hill.",
    "This is a photo of a cat. This is a photo of two dogs and one red car.",
    "We are reading and writing new books about music, sport and technology.",
    "A man playing a guitar is singing; the people are walking and talking.",
)

_WORD = re.compile(r"\w+|[^\w\s]")
_SUFFIXES = ("s", "ed", "ing", "er", "ly", "en")


def _words(count: int, lower: bool) -> list[tuple[str, int]]:
    """The most frequent words of two letters or more, with how often they occur."""
    text = " ".join(TEXT)
    words = Counter(word for word in _WORD.findall(text.lower() if lower else text) if len(word) > 1)
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))[:count]


def _characters(lower: bool) -> str:
    letters = string.ascii_lowercase if lower else string.ascii_letters
    return string.digits + letters + ".,:;?!'\"-()"


def _wordpiece(first: tuple[str, ...], last: tuple[str, ...] = ()) -> dict[str, int]:
    characters = _characters(lower=True)
    pieces = [*characters, *(f"##{c}" for c in characters if c.isalnum()), *(f"##{s}" for s in _SUFFIXES if s[1:])]
    pieces = [*first, *pieces, *(word for word, _ in _words(80, lower=True)), *last]
    return {piece: index for index, piece in enumerate(pieces)}


def _unigram(lower: bool) -> list[tuple[str, float]]:
    """SentencePiece pieces with log probabilities: whole words win over suffixes, and those over characters."""
    words = _words(80, lower)
    total = sum(count for _, count in words)
    pieces = [("▁", -3.0)]
    pieces += [(f"▁{word}", math.log(count / total)) for word, count in words]
    pieces += [(suffix, -4.0) for suffix in _SUFFIXES if suffix[1:]]
    return pieces + [(character, -9.0 - index / 100) for index, character in enumerate(_characters(lower))]


def _merges(end_of_word: str, lower: bool, count: int = 120) -> list[tuple[str, str]]:
    """The most frequent pairs, learned here because tokenizers' own trainer breaks ties by chance."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words: Counter[tuple[str, ...]] = Counter()
    for text in TEXT:
        # CLIP marks the end of a word, so its model never sees the space before one.
        spans = [word for word, _ in splitter.pre_tokenize_str(text.lower() if lower else text)]
        pieces = [tuple(span.removeprefix("Ġ") if end_of_word else span) for span in spans]
        words.update((*piece[:-1], piece[-1] + end_of_word) for piece in pieces if piece)
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merge(word, best): times for word, times in words.items()})
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def _byte_level(
    first: tuple[str, ...], last: tuple[str, ...] = (), end_of_word: str = "", lower: bool = False
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE that can spell anything."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(end_of_word, lower)
    ends = [character + end_of_word for character in alphabet] if end_of_word else []
    pieces = [*first, *alphabet, *ends, *(left + right for left, right in merges), *last]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges


def vocabulary(model_type: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The part of a config that a tokenizer decides: its size, and the special tokens that such a config names."""
    usual = transformers.AutoConfig.for_model(model_type)
    values: dict[str, int | None] = {"vocab_size": len(tokenizer)}
    for token, instead in (("pad", None), ("bos", "cls"), ("eos", "sep"), ("cls", None), ("sep", None)):
        if getattr(usual, f"{token}_token_id", None) is not None:
            found = (getattr(tokenizer, f"{name}_token_id") for name in (token, instead) if name)
            values[f"{token}_token_id"] = next((index for index in found if index is not None), None)
    return values


def bert() -> PreTrainedTokenizerBase:
    """WordPiece, lower case: BERT, DistilBERT, ELECTRA, LayoutLM."""
    vocab = _wordpiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    return transformers.BertTokenizer(vocab=vocab, model_max_length=MAX_LENGTH)


def mpnet() -> PreTrainedTokenizerBase:
    """WordPiece with RoBERTa's special tokens."""
    vocab = _wordpiece(("<s>", "<pad>", "</s>", "[UNK]"), ("<mask>",))
    return transformers.MPNetTokenizer(vocab=vocab, model_max_length=MAX_LENGTH)


def roberta() -> PreTrainedTokenizerBase:
    """Byte-level BPE; padding is 1 and positions start after it."""
    vocab, merges = _byte_level(("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",))
    # The space before a mask belongs to it, as in every published RoBERTa.
    mask = transformers.AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, mask_token=mask, model_max_length=MAX_LENGTH)


def qwen2() -> PreTrainedTokenizerBase:
    """Byte-level BPE without special tokens around a text."""
    vocab, merges = _byte_level((), ("<|endoftext|>", "<|im_end|>"))
    return transformers.Qwen2Tokenizer(
        vocab=vocab, merges=merges, pad_token="<|endoftext|>", eos_token="<|im_end|>", model_max_length=MAX_LENGTH
    )


def layoutlmv3() -> PreTrainedTokenizerBase:
    """RoBERTa's vocabulary, fed with words and boxes."""
    vocab, merges = _byte_level(("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",))
    return transformers.LayoutLMv3Tokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def modernbert() -> PreTrainedTokenizerBase:
    """Byte-level BPE with BERT's special tokens, in no class of its own."""
    specials = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    vocab, merges = _byte_level((), specials)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token=transformers.AddedToken("[MASK]", lstrip=True, special=True, normalized=False),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=MAX_LENGTH,
    )


def clip() -> PreTrainedTokenizerBase:
    """Lower-case BPE with ends of words; the padding token is the end token, as in the published CLIP."""
    vocab, merges = _byte_level((), ("<|startoftext|>", "<|endoftext|>"), end_of_word="</w>", lower=True)
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=32)


def albert() -> PreTrainedTokenizerBase:
    """Unigram, lower case."""
    specials = [(token, 0.0) for token in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")]
    return transformers.AlbertTokenizer(vocab=specials + _unigram(lower=True), model_max_length=MAX_LENGTH)


def xlm_roberta() -> PreTrainedTokenizerBase:
    """Unigram, cased."""
    vocab = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")] + _unigram(lower=False) + [("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=MAX_LENGTH)


def deberta_v2() -> PreTrainedTokenizerBase:
    """Unigram, cased, in the order of DeBERTa-v3."""
    vocab = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")] + _unigram(lower=False) + [("[MASK]", 0.0)]
    return transformers.DebertaV2Tokenizer(vocab=vocab, model_max_length=MAX_LENGTH)


def siglip() -> PreTrainedTokenizerBase:
    """SentencePiece model file; the padding token is the end token."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    specials = [("<pad>", kinds.CONTROL), ("</s>", kinds.CONTROL), ("<unk>", kinds.UNKNOWN)]
    for piece, kind in specials:
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in _unigram(lower=True):
        model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    model.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    for name, value in {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}.items():
        setattr(model.trainer_spec, name, value)
    model.normalizer_spec.name = "identity"
    with tempfile.TemporaryDirectory() as folder:  # the class takes nothing but a file
        path = Path(folder, "spiece.model")
        path.write_bytes(model.SerializeToString(deterministic=True))
        return transformers.SiglipTokenizer(str(path), model_max_length=MAX_LENGTH)


def ctc() -> PreTrainedTokenizerBase:
    """Characters of the published wav2vec2: padding is the blank, "|" ends a word."""
    vocab = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|"))}
    for letter in "ETAONIHSRDLUMWCFGYPBVK'XJQZ":
        vocab[letter] = len(vocab)
    with tempfile.TemporaryDirectory() as folder:  # the class takes nothing but a file
        path = Path(folder, "vocab.json")
        path.write_text(json.dumps(vocab), encoding="utf-8")
        return transformers.Wav2Vec2CTCTokenizer(str(path))
