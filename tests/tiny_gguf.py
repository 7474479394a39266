"""Tiny models written as GGUF files, the way llama.cpp's converter writes them: its names, its keys, its layouts.

`gguf` is llama.cpp's own Python package; nothing here comes from transformers' reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from tests.tiny_base import randomize

Types = gguf.GGMLQuantizationType
# A row of a quantized tensor is a multiple of 32 elements.
_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 48,
}  # fmt: skip
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class GgufModel:
    """An architecture of llama.cpp.

    Attributes:
        architecture: llama.cpp's name.
        make: builds the base model (no head).
        keys: what the header says of its config, without the architecture's prefix.
        layout: what llama.cpp's converter does to a tensor: (GGUF name, values, config) -> values.
    """

    architecture: str
    make: Callable[[], torch.nn.Module]
    keys: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    layout: Callable[[str, np.ndarray, Any], np.ndarray] = lambda name, values, config: values


def _permuted(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """Rotary pairs side by side, where transformers has the two halves."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part, count in heads.items():
        if f".{part}." in name:
            return values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return values


def _transposed(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """GPT-2's Conv1D keeps its matrices the other way round."""
    is_conv = any(
        part in name for part in ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    )
    return values.T if is_conv else values


def _norms_from_one(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    return values + 1 if name.endswith("norm.weight") else values


def _flat_conv(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    return values.squeeze(1) if "shortconv.conv" in name else values


_DECODER: dict[str, Callable[[Any], Any]] = {
    "context_length": lambda c: c.max_position_embeddings,
    "block_count": lambda c: c.num_hidden_layers,
    "embedding_length": lambda c: c.hidden_size,
    "feed_forward_length": lambda c: c.intermediate_size,
    "attention.head_count": lambda c: c.num_attention_heads,
    "attention.head_count_kv": lambda c: c.num_key_value_heads,
    "attention.layer_norm_rms_epsilon": lambda c: float(c.rms_norm_eps),
    "rope.freq_base": lambda c: float(c.rope_parameters["rope_theta"]),
    "vocab_size": lambda c: c.vocab_size,
}
_HEADS = {"attention.key_length": lambda c: c.head_dim, "attention.value_length": lambda c: c.head_dim}
_WINDOW = {**_DECODER, **_HEADS, "attention.sliding_window": lambda c: c.sliding_window}
_LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_STARCODER2 = {key: read for key, read in _DECODER.items() if "rms" not in key}
_STARCODER2 |= {"attention.layer_norm_epsilon": lambda c: float(c.norm_epsilon)}
_LFM2_SIZES = {"block_auto_adjust_ff_dim": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
_LFM2 = {
    **_DECODER,
    "attention.head_count_kv": lambda c: [c.num_key_value_heads * (kind != "conv") for kind in c.layer_types],
    "attention.layer_norm_rms_epsilon": lambda c: float(c.norm_eps),
    "shortconv.l_cache": lambda c: c.conv_L_cache,
}
_GPT2 = {
    "context_length": lambda c: c.n_positions,
    "block_count": lambda c: c.n_layer,
    "embedding_length": lambda c: c.n_embd,
    "feed_forward_length": lambda c: 4 * c.n_embd,
    "attention.head_count": lambda c: c.n_head,
    "attention.layer_norm_epsilon": lambda c: float(c.layer_norm_epsilon),
}


def _gpt2() -> torch.nn.Module:
    config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_positions=1024, **_SPECIAL)
    return transformers.GPT2Model(config)


def _of(kind: str, **values: Any) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        config = getattr(transformers, kind.replace("Model", "Config"))(**_SIZES | _SPECIAL | values)
        return getattr(transformers, kind)(config)

    return make


GGUF_MODELS: dict[str, GgufModel] = {
    "llama": GgufModel(
        "llama",
        _of("LlamaModel", rms_norm_eps=3e-6, rope_parameters={"rope_type": "default", "rope_theta": 50000.0}),
        {**_DECODER, "rope.dimension_count": lambda c: c.hidden_size // c.num_attention_heads},
        _permuted,
    ),
    "llama3": GgufModel(
        "llama",
        _of("LlamaModel", rope_parameters=_LLAMA3_ROPE),
        {**_DECODER, "rope.dimension_count": lambda c: c.hidden_size // c.num_attention_heads},
        _permuted,
    ),
    "qwen2": GgufModel("qwen2", _of("Qwen2Model"), _DECODER),
    "qwen3": GgufModel("qwen3", _of("Qwen3Model", head_dim=128), {**_DECODER, **_HEADS}),
    "gpt2": GgufModel("gpt2", _gpt2, _GPT2, _transposed),
    "qwen3-narrow": GgufModel("qwen3", _of("Qwen3Model", head_dim=16), {**_DECODER, **_HEADS}),
    "phi3": GgufModel("phi3", _of("Phi3Model"), _DECODER),
    "starcoder2": GgufModel("starcoder2", _of("Starcoder2Model"), _STARCODER2),
    "lfm2": GgufModel(
        "lfm2", _of("Lfm2Model", layer_types=["conv", "full_attention"], **_LFM2_SIZES), _LFM2, _flat_conv
    ),
    "gemma2": GgufModel("gemma2", _of("Gemma2Model", head_dim=16, sliding_window=8), _WINDOW, _norms_from_one),
}


def tensors_of(row: GgufModel, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The model's tensors under llama.cpp's names and in its layout."""
    config = model.config
    names = gguf.get_tensor_name_map(
        next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == row.architecture),
        config.num_hidden_layers,
    )
    tensors = {}
    for name, value in model.state_dict().items():
        # The table is made of the names of the model with a head.
        base = name.removesuffix(".weight").removesuffix(".bias")
        known = next(filter(None, (names.get_name(prefix + base) for prefix in ("", "model.", "backbone."))), None)
        if known is None:
            continue  # a buffer
        gguf_name = known + name[len(base) :]
        tensors[gguf_name] = np.ascontiguousarray(row.layout(gguf_name, value.float().numpy(), config))
    return tensors


def build(name: str, seed: int = 0) -> torch.nn.Module:
    """The model of a row, with weights that are all different."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GGUF_MODELS[name].make().eval()
    randomize(model, torch.Generator().manual_seed(seed))
    return model


def write_gguf(
    name: str,
    file: Path,
    model: torch.nn.Module,
    kind: gguf.GGMLQuantizationType = Types.F32,
    *,
    tokenizer: bool = False,
    tokenizer_model: str = "gpt2",
    keys: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write `model` as a GGUF file; matrices as `kind`, vectors as float32, as llama.cpp does.

    LFM2's reader takes the size of the vocabulary from the tokenizer.

    Args:
        tokenizer: with a byte-level tokenizer of the model's vocabulary size.
        tokenizer_model: what the header calls its kind.
        keys: more of the header, whole names; None leaves one out.
        extra: more tensors.

    Returns:
        The tensors as they unpack, under llama.cpp's names and in its layout.
    """
    row = GGUF_MODELS[name]
    writer = gguf.GGUFWriter(file, row.architecture)
    fields = {f"{row.architecture}.{key}": read(model.config) for key, read in row.keys.items()}
    fields |= {"general.name": f"tiny {name}"} | dict(keys or {})
    for key, value in fields.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, int(value))
    if tokenizer:
        _add_tokenizer(writer, model.config.vocab_size, tokenizer_model)
    read_back = {}
    for tensor, values in {**tensors_of(row, model), **(extra or {})}.items():
        stored = kind if values.ndim > 1 else Types.F32
        data = gguf.quantize(values, stored)
        writer.add_tensor(tensor, data, raw_dtype=stored)
        read_back[tensor] = gguf.dequantize(data, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_back


def _add_tokenizer(writer: gguf.GGUFWriter, size: int, model: str) -> None:
    """Bytes of printable ASCII as tokens, a few merges, three special tokens."""
    special = ["<pad>", "<s>", "</s>"]
    last = ["<|endoftext|>"]  # what transformers takes for unknown text; it would add it
    letters = [chr(code) for code in range(33, 127)] + ["\u0120"]
    merges = ["t h", "th e", "\u0120 the", "i n", "a n", "an d"]
    tokens = special + letters + [merge.replace(" ", "") for merge in merges] + last
    tokens += [f"<unused{index}>" for index in range(size - len(tokens))]
    control, normal, unused = 3, 1, 5
    types = [control if index < 3 else unused if token.startswith("<unused") else normal
             for index, token in enumerate(tokens)]  # fmt: skip
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
