"""Tiny checkpoints of transformers' TF classes, and what those classes make of inputs, as a command.

    python -m tests.tiny_tensorflow FOLDER NAME...

writes FOLDER/NAME, a checkpoint, and FOLDER/NAME.npz: `in.*` and `out.*` of one call at sizes that no conversion
traces, or for models that write `prompt` and `text`. Runs where there are TF classes (transformers 4.52); nothing of
onnxport is imported, so that the numbers are the framework's own.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests import tiny_tokenizers

MAX_LENGTH = 64
PROMPT = "Paris is the capital of"
LABELS = {
    "text-classification": ("negative", "neutral", "positive"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "image-classification": ("cat", "dog", "bird", "horse", "fish"),
}
_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
}  # fmt: skip
_WHISPER = {
    **{name: value for name, value in _BART.items() if name != "max_position_embeddings"},
    "num_mel_bins": 16, "max_source_positions": 50, "max_target_positions": 96,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_VIT = {**_BERT, "image_size": 32, "patch_size": 8}
_WAV2VEC2 = {
    **_BERT, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "group",
}  # fmt: skip


def bert() -> Any:
    """WordPiece, lower case."""
    return _from_files(transformers.BertTokenizerFast, **{"vocab.txt": "\n".join(tiny_tokenizers._wordpiece(_SPECIAL))})


def roberta() -> Any:
    """Byte-level BPE."""
    vocab, merges = tiny_tokenizers._byte_level(("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",))
    files = {"vocab.json": json.dumps(vocab), "merges.txt": "\n".join(map(" ".join, merges))}
    return _from_files(transformers.RobertaTokenizerFast, **files)


def gpt2() -> Any:
    """Byte-level BPE without special tokens but one."""
    vocab, merges = tiny_tokenizers._byte_level((), ("<|endoftext|>",))
    files = {"vocab.json": json.dumps(vocab), "merges.txt": "\n".join(map(" ".join, merges))}
    return _from_files(transformers.GPT2TokenizerFast, **files)


def t5() -> Any:
    """Unigram."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *tiny_tokenizers._unigram(lower=False)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=MAX_LENGTH)


def wav2vec2() -> Any:
    """Letters, in vocab.json."""
    letters = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    content = json.dumps({letter: index for index, letter in enumerate(letters)})
    return _from_files(transformers.Wav2Vec2CTCTokenizer, **{"vocab.json": content})


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _from_files(cls: Any, **files: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_text(content, encoding="utf-8")
        return cls.from_pretrained(folder, model_max_length=MAX_LENGTH)


def _nothing() -> tuple[Any, ...]:
    return ()


@dataclass(frozen=True)
class Tiny:
    """A checkpoint.

    Attributes:
        task: of onnxport.
        cls: a TF class of transformers.
        sizes: of its configuration, beside what the tokenizer decides.
        tokenizer: makes it; None where there is none.
        parts: makes what else is saved.
        saved: "h5", "shards" (several .h5 files), "safetensors".
    """

    task: str
    cls: str
    sizes: dict[str, Any]
    tokenizer: Callable[[], Any] | None = bert
    parts: Callable[[], tuple[Any, ...]] = _nothing
    saved: str = "h5"
    more: dict[str, Any] = field(default_factory=dict)


def _whisper_extractor() -> tuple[Any, ...]:
    return (transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1),)


def _wav2vec2_extractor() -> tuple[Any, ...]:
    return (transformers.Wav2Vec2FeatureExtractor(),)


def _image_processor() -> tuple[Any, ...]:
    return (transformers.ViTImageProcessor(size={"height": 32, "width": 32}),)


_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_OPT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32,
    "max_position_embeddings": 128,
}  # fmt: skip

TABLE: dict[str, Tiny] = {
    "bert": Tiny("feature-extraction", "TFBertModel", _BERT),
    "bert-fill-mask": Tiny("fill-mask", "TFBertForMaskedLM", _BERT, saved="safetensors"),
    "bert-ner": Tiny("token-classification", "TFBertForTokenClassification", _BERT),
    "bert-sentiment": Tiny("text-classification", "TFBertForSequenceClassification", _BERT),
    "bert-qa": Tiny("question-answering", "TFBertForQuestionAnswering", _BERT),
    "bert-choice": Tiny("multiple-choice", "TFBertForMultipleChoice", _BERT),
    "bert-next": Tiny("next-sentence-prediction", "TFBertForNextSentencePrediction", _BERT),
    "distilbert": Tiny("text-classification", "TFDistilBertForSequenceClassification", _DISTILBERT, saved="shards"),
    "roberta": Tiny("fill-mask", "TFRobertaForMaskedLM", _BERT, roberta),
    "electra": Tiny("token-classification", "TFElectraForTokenClassification", _BERT | {"embedding_size": 16}),
    "albert": Tiny("question-answering", "TFAlbertForQuestionAnswering", _BERT | {"embedding_size": 16}),
    "gpt2": Tiny("text-generation", "TFGPT2LMHeadModel", _GPT2, gpt2),
    "opt": Tiny("text-generation", "TFOPTForCausalLM", _OPT, gpt2),
    "gptj": Tiny("text-generation", "TFGPTJForCausalLM", _GPT2 | {"rotary_dim": 4}, gpt2),
    "ctrl": Tiny("text-generation", "TFCTRLLMHeadModel", _GPT2 | {"dff": 48}, gpt2),
    "t5": Tiny("translation", "TFT5ForConditionalGeneration", _T5, t5),
    "bart": Tiny("summarization", "TFBartForConditionalGeneration", _BART, roberta),
    "mbart": Tiny("text2text-generation", "TFMBartForConditionalGeneration", _BART, roberta),
    "marian": Tiny("translation", "TFMarianMTModel", _BART, roberta),
    "pegasus": Tiny("summarization", "TFPegasusForConditionalGeneration", _BART, roberta),
    "vit": Tiny("image-classification", "TFViTForImageClassification", _VIT, None, _image_processor),
    "wav2vec2": Tiny("automatic-speech-recognition", "TFWav2Vec2ForCTC", _WAV2VEC2, wav2vec2, _wav2vec2_extractor),
    "whisper": Tiny(
        "automatic-speech-recognition", "TFWhisperForConditionalGeneration", _WHISPER, roberta, _whisper_extractor
    ),
}


def save(name: str, folder: Path, seed: int = 0) -> Any:
    """Write the checkpoint `name` of the table into `folder`; the model."""
    row = TABLE[name]
    tokenizer = row.tokenizer() if row.tokenizer is not None else None
    cls = getattr(transformers, row.cls)
    sizes = {**row.sizes, **(_vocabulary(cls.config_class.model_type, tokenizer) if tokenizer is not None else {})}
    if row.task in LABELS:
        sizes["id2label"] = dict(enumerate(LABELS[row.task]))
        sizes["label2id"] = {label: number for number, label in enumerate(LABELS[row.task])}
    model = cls(cls.config_class(**sizes))
    model.build_in_name_scope()
    _draw(model, seed)
    for part in (tokenizer, *row.parts()):
        if part is not None:
            part.save_pretrained(folder)
    shard = {"max_shard_size": "20KB"} if row.saved == "shards" else {}
    model.save_pretrained(folder, safe_serialization=row.saved == "safetensors", **shard)
    return model


def reference(name: str, folder: Path, model: Any) -> dict[str, Any]:
    """What the model makes of one input: arrays by `in.NAME` and `out.NAME`, or `prompt` and `text`."""
    row = TABLE[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if row.tokenizer is not None else None
    if row.task in ("text-generation", "translation", "summarization", "text2text-generation"):
        encoded = tokenizer(PROMPT, return_tensors="tf")
        given = {key: encoded[key] for key in ("input_ids", "attention_mask")}
        tokens = model.generate(**given, max_new_tokens=12, do_sample=False, num_beams=1)
        new = tokens[0, given["input_ids"].shape[1] :] if row.task == "text-generation" else tokens[0]
        return {"prompt": PROMPT, "text": tokenizer.decode(new, skip_special_tokens=True)}
    rng = np.random.default_rng(7)
    given = _inputs(row, folder, tokenizer, rng)
    called = {
        key: tf.constant(value.astype(np.int32) if value.dtype == np.int64 else value) for key, value in given.items()
    }
    if row.cls == "TFWhisperForConditionalGeneration":
        encoded = model.get_encoder()(called["input_features"], training=False)
        outputs = {"last_hidden_state": encoded[0]}
    else:
        outputs = model(called, training=False)
    return {f"in.{key}": value for key, value in given.items()} | {
        f"out.{key}": value.numpy() for key, value in outputs.items() if hasattr(value, "numpy")
    }


def _inputs(row: Tiny, folder: Path, tokenizer: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of 4 rows, padded where there is a mask, at sizes that no conversion traces."""
    if row.task == "image-classification":
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        images = [rng.integers(0, 256, (50, 40, 3), dtype=np.uint8) for _ in range(4)]
        return {"pixel_values": np.asarray(processor(images, return_tensors="np")["pixel_values"])}
    if row.task == "automatic-speech-recognition":
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        sounds = [rng.standard_normal(6007).astype(np.float32) * 0.1 for _ in range(4)]
        return {k: np.asarray(v) for k, v in extractor(sounds, sampling_rate=16000, return_tensors="np").items()}
    words = " ".join(tiny_tokenizers.TEXT).split()
    first = [" ".join(rng.choice(words, size)) for size in (13, 4, 9, 2)]
    paired = row.task in ("question-answering", "next-sentence-prediction", "multiple-choice")
    pairs = [" ".join(rng.choice(words, 3)) for _ in first] if paired else None
    encoded = tokenizer(first, pairs, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="np")
    accepted = inspect.signature(getattr(transformers, row.cls).call).parameters
    arrays = {key: np.asarray(value, np.int64) for key, value in encoded.items() if key in accepted}
    if row.task == "multiple-choice":
        arrays = {key: value.reshape(2, 2, -1) for key, value in arrays.items()}
    return arrays


def _vocabulary(model_type: str, tokenizer: Any) -> dict[str, Any]:
    values = tiny_tokenizers.vocabulary(model_type, tokenizer)
    if "decoder_start_token_id" in transformers.AutoConfig.for_model(model_type).to_dict() and model_type != "t5":
        values["decoder_start_token_id"] = tokenizer.bos_token_id
    return values


def _draw(model: Any, seed: int) -> None:
    """Weights wide enough for answers to differ from input to input, and for greedy tokens to wander."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_weights:
        shape = tuple(variable.shape)
        if len(shape) < 2:
            numbers = variable.numpy() + 0.1 * rng.standard_normal(shape)
        else:
            numbers = rng.standard_normal(shape) * 1.5 / math.sqrt(min(math.prod(shape[:-1]), 64))
        variable.assign(numbers.astype(np.float32))


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0])
    for name in arguments[1:]:
        model = save(name, folder / name)
        np.savez(folder / f"{name}.npz", **reference(name, folder / name, model))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(sys.argv[1:])
