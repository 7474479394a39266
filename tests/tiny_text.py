"""Tiny text and document models, and sentence-transformers checkpoints, as a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from tests import tiny_tokenizers as tokenizers
from tests.tiny_base import Parts, Tiny, row

_POSITIONS = tokenizers.MAX_LENGTH
# RoBERTa and its kin start counting positions after the padding id.
_SHIFTED = {"max_position_embeddings": _POSITIONS + 2}
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": _POSITIONS,
}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": _POSITIONS}
_DEBERTA = {  # as in DeBERTa-v3: relative positions only, in logarithmic buckets, with shared keys
    "relative_attention": True,
    "position_buckets": 16,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}
_MODERNBERT = {  # one layer with global and one with local attention, narrower than the longest text
    "global_attn_every_n_layers": 2,
    "local_attention": 16,
}
_LAYOUTLMV3 = {"input_size": 32, "patch_size": 8, "coordinate_size": 6, "shape_size": 4, "rel_2d_pos_bins": 16}


def _config(model_type: str, values: dict[str, Any], parts: Parts) -> dict[str, Any]:
    return tokenizers.vocabulary(model_type, parts[0]) | values


def _layoutlmv3() -> Parts:
    # OCR needs a program that tests cannot count on: words and boxes are given.
    image_processor = transformers.LayoutLMv3ImageProcessorPil(size={"height": 32, "width": 32}, apply_ocr=False)
    tokenizer = tokenizers.layoutlmv3()
    return tokenizer, transformers.LayoutLMv3Processor(image_processor, tokenizer)


# model type: what its config adds, its tokenizer or other parts, the tasks
_FAMILIES: dict[str, tuple[dict[str, Any], Callable[[], Any], tuple[str, ...]]] = {
    "bert": (
        _SIZES,
        tokenizers.bert,
        (
            "feature-extraction",
            "fill-mask",
            "text-classification",
            "token-classification",
            "question-answering",
            "multiple-choice",
            "next-sentence-prediction",
            "zero-shot-classification",
        ),
    ),
    "distilbert": (_DISTILBERT, tokenizers.bert, ("text-classification", "question-answering")),
    "roberta": (
        _SIZES | _SHIFTED | {"type_vocab_size": 1},
        tokenizers.roberta,
        ("fill-mask", "text-classification"),
    ),
    "deberta-v2": (_SIZES | _DEBERTA, tokenizers.deberta_v2, ("text-classification", "token-classification")),
    "electra": (_SIZES | {"embedding_size": 16}, tokenizers.bert, ("token-classification",)),
    "mpnet": (_SIZES | _SHIFTED, tokenizers.mpnet, ("feature-extraction", "fill-mask")),
    "albert": (_SIZES | {"embedding_size": 16}, tokenizers.albert, ("text-classification",)),
    "xlm-roberta": (
        _SIZES | _SHIFTED | {"type_vocab_size": 1},
        tokenizers.xlm_roberta,
        ("token-classification",),
    ),
    "modernbert": (_SIZES | _MODERNBERT, tokenizers.modernbert, ("fill-mask", "text-classification")),
    "layoutlm": (_SIZES, tokenizers.bert, ("token-classification",)),
    "layoutlmv3": (_SIZES | _SHIFTED | _LAYOUTLMV3, _layoutlmv3, ("token-classification",)),
}


def _parts(make: Callable[[], Any]) -> Parts:
    made = make()
    return made if isinstance(made, tuple) else (made,)


class SentenceModules(nn.Module):
    """What sentence-transformers keeps beside the model: pooling, then a dense layer or normalization."""

    def __init__(self, pooling: str, dense: int | None, normalize: bool, hidden_size: int = 32) -> None:
        super().__init__()
        self.hidden_size, self.pooling, self.normalize = hidden_size, pooling, normalize
        self.dense = nn.Linear(hidden_size, dense) if dense else None

    def save_pretrained(self, folder: Path) -> None:
        """Write modules.json and a numbered folder for every module."""
        modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        pooling = {"word_embedding_dimension": self.hidden_size}
        pooling |= {f"pooling_mode_{mode}": mode == self.pooling for mode in modes}
        chain: list[tuple[str, dict[str, Any] | None]] = [("Transformer", None), ("Pooling", pooling)]
        if self.dense is not None:
            activation = "torch.nn.modules.activation.Tanh"
            sizes = {"in_features": self.dense.in_features, "out_features": self.dense.out_features, "bias": True}
            chain.append(("Dense", sizes | {"activation_function": activation}))
        if self.normalize:
            chain.append(("Normalize", None))
        modules = []
        for index, (kind, config) in enumerate(chain):
            path = f"{index}_{kind}" if index else ""
            modules.append(
                {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            )
            if config:  # repositories cannot hold the empty folder of Normalize, so it never arrives
                (folder / path).mkdir(exist_ok=True)
                _write(folder / path / "config.json", config)
            if kind == "Dense" and self.dense is not None:
                tensors = {f"linear.{name}": tensor.contiguous() for name, tensor in self.dense.state_dict().items()}
                save_file(tensors, folder / path / "model.safetensors", {"format": "pt"})
        _write(folder / "modules.json", modules)
        _write(folder / "sentence_bert_config.json", {"max_seq_length": _POSITIONS, "do_lower_case": False})
        versions = {"sentence_transformers": "5.1.0", "transformers": transformers.__version__}
        _write(folder / "config_sentence_transformers.json", {"__version__": versions | {"pytorch": torch.__version__}})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sentence(pooling: str, dense: int | None, normalize: bool) -> Parts:
    return tokenizers.bert(), SentenceModules(pooling, dense, normalize)


# name: pooling, width of the dense layer, whether the result is normalized
_SENTENCES: dict[str, tuple[str, int | None, bool]] = {
    "sentence-bert": ("mean_tokens", None, True),
    "sentence-bert-cls-dense": ("cls_token", 24, False),
}

TABLE: tuple[Tiny, ...] = (
    *(
        row(f"{model_type}-{task}", task, model_type, partial(_config, model_type, values), partial(_parts, make))
        for model_type, (values, make, tasks) in _FAMILIES.items()
        for task in tasks
    ),
    *(
        row(name, "feature-extraction", "bert", partial(_config, "bert", _SIZES), partial(_sentence, *arguments))
        for name, arguments in _SENTENCES.items()
    ),
)
