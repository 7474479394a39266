"""Checkpoints of any size for benchmarks/scale.py, written tensor by tensor.

    .venv/bin/python benchmarks/scale_models.py llama-2.5gb FOLDER

Names and shapes come from the transformers class on the meta device, so no model is ever held: the
numbers of all tensors are windows of one block of 64 MiB from a seeded SFC64 generator. Each tensor
starts at another place in it, so no two tensors are equal; the block's length is prime, so the rows
of a tensor longer than the block are not equal either. Two runs write the same bytes.

Files are as the hub has them: config.json in the form of transformers 4, safetensors in shards with
an index, tied weights once, experts one by one, and a tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

GB = 10**9
STANDARD_DEVIATION = np.float32(0.02)
# The largest prime below 2**24: 64 MiB of float32 whose period divides no power of two.
BLOCK = 16_777_213
# Coprime to BLOCK, so that the first BLOCK tensors of a checkpoint start at different places.
STRIDE = 7_368_787


@dataclass(frozen=True)
class Model:
    """One checkpoint to generate.

    Attributes:
        architecture: the transformers class that the checkpoint was saved from.
        task: what it is converted for.
        config: config.json, without what every checkpoint has.
        dtype: "float32" or "bfloat16", as stored.
        shard_bytes: a new file begins before this size is passed.
    """

    architecture: str
    task: str
    config: dict[str, Any]
    dtype: str = "float32"
    shard_bytes: int = 2 * GB


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors file."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * (4 if self.dtype == "float32" else 2)


def _llama(hidden: int, intermediate: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    }


_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "moe_intermediate_size": 768,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 7,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
_BERT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512}
_GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}
# The task of decoders until the package converts text-generation; their output layer is then not used.
_DECODER = "feature-extraction"

MODELS: dict[str, Model] = {
    "bert-base": Model("BertForMaskedLM", "fill-mask", _BERT),
    "gpt2": Model("GPT2LMHeadModel", _DECODER, _GPT2),
    "llama-2.5gb": Model("LlamaForCausalLM", _DECODER, _llama(2048, 5632, 10), shard_bytes=GB),
    "moe-1.3gb": Model("Qwen3MoeForCausalLM", _DECODER, _MOE, shard_bytes=GB // 2),
    "llama-bf16-5gb": Model("LlamaForCausalLM", _DECODER, _llama(4096, 11008, 11), "bfloat16"),
    "llama-10gb": Model("LlamaForCausalLM", _DECODER, _llama(4096, 11008, 11)),
}


def generate(model: Model, folder: Path) -> dict[str, int]:
    """Write the checkpoint into `folder`, which is made.

    Returns:
        weights: bytes of all tensors; used: of those that the task's class has; stored_bits: of one
        number; tensors and files: how many.
    """
    folder.mkdir(parents=True)
    config = model.config | {
        "architectures": [model.architecture],
        "torch_dtype": model.dtype,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_tokenizer(folder, config.get("max_position_embeddings", config.get("n_positions")))
    tensors = list(_stored(_parameters(model.architecture, config), model.dtype))
    shards = _shards(tensors, model.shard_bytes)
    _write_weights(folder, shards, _Numbers(model.dtype))
    return {
        "weights": sum(tensor.bytes for tensor in tensors),
        "used": sum(tensor.bytes for tensor in tensors if not _unused(tensor.name, model.task)),
        "stored_bits": 32 if model.dtype == "float32" else 16,
        "tensors": len(tensors),
        "files": len(shards),
    }


def _unused(name: str, task: str) -> bool:
    return task == "feature-extraction" and name.startswith("lm_head.")


def _parameters(architecture: str, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, tied parameters once."""
    import torch
    import transformers

    values = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "torch_dtype")}
    with torch.device("meta"):
        model = getattr(transformers, architecture)(transformers.AutoConfig.for_model(config["model_type"], **values))
    model.tie_weights()
    for name, parameter in model.named_parameters():
        yield name, tuple(parameter.shape)


def _stored(parameters: Iterable[tuple[str, tuple[int, ...]]], dtype: str) -> Iterator[Tensor]:
    """What the hub stores: transformers 5 holds the experts of a layer in two tensors, checkpoints one by one."""
    for name, shape in parameters:
        head, _, last = name.rpartition(".")
        if not head.endswith(".experts"):
            yield Tensor(name, shape, dtype)
            continue
        experts, rows, columns = shape
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[last]
        for expert in range(experts):
            for part in parts:
                yield Tensor(f"{head}.{expert}.{part}.weight", (rows // len(parts), columns), dtype)


def _shards(tensors: list[Tensor], limit: int) -> list[list[Tensor]]:
    """Tensors in order, a new shard wherever the next one would pass the limit."""
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards


class _Numbers:
    """Weights of std 0.02, norm weights around 1, all of one seeded block."""

    def __init__(self, dtype: str) -> None:
        block = np.random.Generator(np.random.SFC64(0)).standard_normal(BLOCK, dtype=np.float32)
        block *= STANDARD_DEVIATION
        self._block = block
        self._encode = _bfloat16 if dtype == "bfloat16" else np.asarray
        self._encoded = self._encode(block)
        self._count = 0

    def write(self, file: BinaryIO, tensor: Tensor) -> None:
        """The next tensor's numbers; they depend on how many came before."""
        start = self._count * STRIDE % BLOCK
        self._count += 1
        # In these families whatever has one axis and is called weight is the scale of a norm.
        norm = len(tensor.shape) == 1 and tensor.name.endswith(".weight")
        left = tensor.size
        while left:
            stop = min(start + left, BLOCK)
            window = self._encode(1 + self._block[start:stop]) if norm else self._encoded[start:stop]
            file.write(window.data.cast("B"))
            left -= stop - start
            start = 0


def _bfloat16(numbers: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded to the nearest, ties to even."""
    bits = numbers.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _write_weights(folder: Path, shards: list[list[Tensor]], numbers: _Numbers) -> None:
    count = len(shards)
    names = (
        [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)] if count > 1 else ["model.safetensors"]
    )
    for file_name, shard in zip(names, shards, strict=True):
        with (folder / file_name).open("wb", buffering=0) as file:
            header = _header(shard)
            file.write(struct.pack("<Q", len(header)) + header)
            for tensor in shard:
                numbers.write(file, tensor)
    if count > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.bytes for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(shard: list[Tensor]) -> bytes:
    """The JSON of a safetensors file, padded so that the numbers start at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in shard:
        dtype = {"float32": "F32", "bfloat16": "BF16"}[tensor.dtype]
        entries[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, begin + tensor.bytes]}
        begin += tensor.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _write_tokenizer(folder: Path, max_length: Any) -> None:
    """Bytes as tokens: it spells any text and needs a vocabulary of 261."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    specials = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    specials["mask_token"] = "<mask>"
    pieces = [*specials.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials.values()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **specials,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(generate(MODELS[arguments.model], arguments.folder)))


if __name__ == "__main__":
    main()
