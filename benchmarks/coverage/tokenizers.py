"""A tiny tokenizer of the class that transformers maps a model type to, with a vocabulary made from a small text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests import tiny_tokenizers as tiny

_SPECIALS = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_LENGTH = 128
_MARKS = re.compile(r"""["'](<[|/a-zA-Z0-9_\-:]+>|\[[A-Z_]+\]|<\|[\w-]+\|>)["']""")


def tokenizer_of(model_type: str, more: Iterable[str] = ()) -> Any:
    """A tokenizer of the class that `AutoTokenizer` uses for the type; a byte-level BPE where that cannot be made.

    Args:
        model_type: key of the mapping; unknown ones get the byte-level BPE.
        more: special tokens that a processor needs.
    """
    made = _of_class(_class_of(model_type)) or byte_level()
    added = [token for token in dict.fromkeys(more) if token not in made.get_vocab()]
    if added:
        made.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False) if _extra(
            made
        ) else made.add_tokens(added, special_tokens=True)
    if made.pad_token is None:
        made.pad_token = made.eos_token or made.unk_token
    return made


def _extra(tokenizer: Any) -> bool:
    return "replace_extra_special_tokens" in inspect.signature(tokenizer.add_special_tokens).parameters


def marks_in(*classes: Any) -> list[str]:
    """Special tokens like `<image>` that stand in the code of processors."""
    found: list[str] = []
    for one in classes:
        try:
            found += _MARKS.findall(inspect.getsource(inspect.getmodule(one)))
        except (OSError, TypeError):
            continue
    return list(dict.fromkeys(found))


def byte_level() -> Any:
    """A byte-level BPE in no class of its own."""
    specials = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
    vocab, merges = tiny._byte_level(specials)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", pad_token="<pad>", mask_token="<mask>", model_max_length=_LENGTH,
    )  # fmt: skip


def _class_of(model_type: str) -> Any:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    name = TOKENIZER_MAPPING_NAMES.get(model_type)
    try:
        return getattr(transformers, name) if name else None
    except Exception:  # needs a library that is not installed
        return None


def _of_class(kind: Any) -> Any:
    """An instance with a vocabulary as its constructor wants it, or None."""
    if kind is None or kind.__name__ in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return None
    makers = {
        "BertTokenizer": tiny.bert, "MPNetTokenizer": tiny.mpnet, "RobertaTokenizer": tiny.roberta,
        "CLIPTokenizer": tiny.clip, "AlbertTokenizer": tiny.albert, "XLMRobertaTokenizer": tiny.xlm_roberta,
        "DebertaV2Tokenizer": tiny.deberta_v2, "SiglipTokenizer": tiny.siglip, "Wav2Vec2CTCTokenizer": tiny.ctc,
        "LayoutLMv3Tokenizer": tiny.layoutlmv3,
    }  # fmt: skip
    if kind.__name__ in makers:
        return makers[kind.__name__]()
    parameters = inspect.signature(kind.__init__).parameters
    specials = _specials(parameters)
    for values in _vocabularies(parameters, specials):
        try:
            tokenizer = kind(**values, model_max_length=_LENGTH)
            ids = tokenizer("Ada lives in London.")["input_ids"]
            if len(ids) >= 3 and len(tokenizer) > 50:
                return tokenizer
        except Exception:  # the next form of a vocabulary
            continue
    return None


def _specials(parameters: Any) -> list[str]:
    found = []
    for name in _SPECIALS:
        default = getattr(parameters.get(f"{name}_token"), "default", None)
        if isinstance(default, (str, transformers.AddedToken)):
            found.append(str(default))
    return list(dict.fromkeys(found))


def _vocabularies(parameters: Any, specials: list[str]) -> list[dict[str, Any]]:
    """Constructor arguments to try: byte-level, pieces with ▁, WordPiece, Unigram."""
    tries: list[dict[str, Any]] = []
    if "vocab" not in parameters:
        return [{}]
    wordpiece = tiny._wordpiece(tuple(specials))
    unigram = [(token, 0.0) for token in specials] + tiny._unigram(lower=False)
    if "merges" in parameters:
        vocab, merges = tiny._byte_level(tuple(specials))
        pieces = [*specials, *_BYTES, *(piece for piece, _ in tiny._unigram(lower=False) if len(piece) == 1)]
        spaced = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
        both = [{"vocab": vocab, "merges": merges}, {"vocab": spaced, "merges": []}]
        # Classes of SentencePiece's kind put ▁ for a space, those of GPT-2's bytes as letters.
        return both[::-1] if "Metaspace" in _source(parameters) else both
    tries += [{"vocab": unigram}, {"vocab": wordpiece}]
    return tries


def _source(parameters: Any) -> str:
    return ""
