"""How fast converted decoders generate: our graphs in ONNX Runtime against PyTorch, on the same weights.

    .venv/bin/python benchmarks/generation.py                    # Llama-shaped, 92M parameters
    .venv/bin/python benchmarks/generation.py --layers 2 --repeat 5
    .venv/bin/python benchmarks/generation.py --genai            # and against onnxruntime-genai (extra "genai")

A cell is the median milliseconds of one call; the arms alternate. Decode: one token over a past; prefill:
256 tokens over none, of which the last logits are computed. Arms: our graph, in float32 and with weights of
4 bits, with its cache as ONNX Runtime's own buffers (a step's states are bound as the next step's past); the graph
of `optimize --for cpu`, whose cache stays in place; and torch eager with transformers' DynamicCache. With --genai
also, in onnxruntime-genai: our folder, and what its own builder makes of the same checkpoint, which shares one
buffer of past and present. Random weights.
Writes benchmarks/results/generation.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnxruntime
import torch
import transformers

from onnxport import convert, optimize, quantize
from onnxport.quiet import quiet

RESULTS = Path(__file__).parent / "results" / "generation.json"
# (name, rows, tokens of the call, past)
CELLS = (
    ("decode, past 128, batch 1", 1, 1, 128),
    ("decode, past 128, batch 4", 4, 1, 128),
    ("decode, past 1024, batch 1", 1, 1, 1024),
    ("decode, past 1024, batch 4", 4, 1, 1024),
    ("prefill 256, batch 1", 1, 256, 0),
    ("prefill 256, batch 4", 4, 256, 0),
)
HEADS, FEATURES = 2, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--genai", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, converted, cost = _convert(options.layers, folder)
        arms = {
            "onnxport": _graph(converted, options),
            "onnxport fused": _graph(optimize(folder / "out", for_="cpu"), options, room=2048),
            "fused int4": _graph(quantize(folder / "out", "int4"), options, room=2048),
            "onnxport int4": _graph(folder / "out" / "onnx" / "model_q4.onnx", options),
            "torch eager": _torch(model, options),
        }
        if options.genai:
            from benchmarks.generation_genai import genai_arms

            arms |= genai_arms(folder / "m", folder / "out", folder, options.threads)
        rows = [_row(cell, arms, options.repeat) for cell in CELLS]
    print(f"converted in {cost['cpu_s']:.1f} CPU s, peak {cost['peak_mib']:.0f} MiB, {cost['size']:.3f} of the weights")
    print(f"| cell, ms | {' | '.join(arms)} |\n|---|{'---|' * len(arms)}")
    for row in rows:
        print(f"| {row['cell']} | {' | '.join(f'{row[arm]:.1f}' for arm in arms)} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"conversion": cost, "cells": rows}, indent=2) + "\n")


def _convert(layers: int, folder: Path) -> tuple[Any, Path, dict[str, float]]:
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=HEADS, head_dim=FEATURES, vocab_size=32000, max_position_embeddings=2048,
        tie_word_embeddings=True, initializer_range=0.05, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with quiet():
        model = transformers.LlamaForCausalLM(config).eval()
        model.save_pretrained(folder / "m")
    before = time.process_time()
    conversion = convert(None, folder / "m", folder / "out")
    weights = (folder / "m" / "model.safetensors").stat().st_size
    cost = {
        "cpu_s": time.process_time() - before,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "size": sum(c.size_bytes for c in conversion.manifest.components) / weights,
    }
    return model, folder / "out" / "onnx" / "model.onnx", cost


Arm = Callable[[int, int, int], Callable[[], object]]  # (rows, tokens, past) -> one call


def _graph(file: Path, options: argparse.Namespace, room: int = 0) -> Arm:
    """Args:
    room: columns of buffers that are both past and present; 0 is a past of the right length.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])

    def prepare(rows: int, tokens: int, past: int) -> Callable[[], object]:
        rng = np.random.default_rng(0)
        feed = {
            "input_ids": rng.integers(3, 32000, (rows, tokens)),
            "attention_mask": np.ones((rows, past + tokens), np.int64),
            "position_ids": np.tile(np.arange(past, past + tokens), (rows, 1)),
        }
        binding = session.io_binding()
        held = {}
        for value in session.get_overridable_initializers():  # num_logits_to_keep
            held[value.name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(1))
            binding.bind_ortvalue_input(value.name, held[value.name])
        for value in session.get_inputs():
            array = feed.get(value.name)
            if array is None:
                array = rng.standard_normal((rows, HEADS, room or past, FEATURES)).astype(np.float32)
            held[value.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(value.name, held[value.name])
        for value in session.get_outputs():
            if room and value.name.startswith("present."):
                binding.bind_ortvalue_output(value.name, held[value.name.replace("present.", "past_key_values.")])
            else:
                binding.bind_output(value.name)
        return lambda kept=held: session.run_with_iobinding(binding)  # OrtValues over arrays do not keep them

    return prepare


def _torch(model: Any, options: argparse.Namespace) -> Arm:
    def prepare(rows: int, tokens: int, past: int) -> Callable[[], object]:
        rng = torch.Generator().manual_seed(0)
        ids = torch.randint(3, 32000, (rows, tokens), generator=rng)
        mask = torch.ones(rows, past + tokens, dtype=torch.int64)
        shape = (rows, HEADS, past, FEATURES)
        layers = range(options.layers)
        held = [(torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)) for _ in layers]

        def call() -> object:
            cache = transformers.DynamicCache(held) if past else None
            with torch.no_grad():
                return model(
                    input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
                )

        return call

    return prepare


def _row(cell: tuple[str, int, int, int], arms: dict[str, Arm], repeat: int) -> dict[str, Any]:
    name, *sizes = cell
    calls = {arm: prepare(*sizes) for arm, prepare in arms.items()}
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(repeat + 1):
        for arm, call in calls.items():
            call()  # while the threads of the arm before still wait for work, and take its cores
            start = time.perf_counter()
            call()
            if number > 0:  # the first calls warm up
                times[arm].append(1000 * (time.perf_counter() - start))
    medians = {arm: statistics.median(values) for arm, values in times.items()}
    return {"cell": name, **medians}


if __name__ == "__main__":
    main()
