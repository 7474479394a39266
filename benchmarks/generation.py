"""How fast converted decoders generate: our graphs in ONNX Runtime against others, on the same weights.

    .venv/bin/python benchmarks/generation.py                      # Llama-shaped, 92M parameters
    .venv/bin/python benchmarks/generation.py --layers 2 --turns 3
    .venv/bin/python benchmarks/generation.py --genai              # and onnxruntime-genai (extra "genai")
    .venv/bin/python benchmarks/generation.py --peer-env .peer     # and optimum-onnx; made if absent
    .venv/bin/python benchmarks/generation.py --arms "onnxport,torch eager"

A cell is the median milliseconds of one call. Decode: one token over a past; prefill: 256 tokens over none. All arms
have as many threads, random weights and the same work, but for what is said here:

    onnxport, onnxport int4      our graph, with a cache in ONNX Runtime's own buffers; the logits of the last token
    fused, fused int4            the graphs of `optimize --for cpu`, whose cache stays in place; the same logits
    onnxport, fused fp32/int4 in genai; genai builder fp32/int4
                                 in onnxruntime-genai, which also chooses the next token in every step; the past grows
                                 from a little below to a little above what the cell says
    optimum                      its graph, bound as ours; it has logits of all tokens, and no others
    torch eager                  transformers' DynamicCache; the logits of the last token

How arms are kept apart is said in turns.py. Below the cells are ratios of times: less than 1 is faster.
Writes benchmarks/results/generation.json, with quartiles over the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnxruntime
import torch
import transformers

from benchmarks.turns import Times, Work, measure
from onnxport import convert, optimize, quantize
from onnxport.system.output_capture import capture_process

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
# What is divided by what.
RATIOS = (
    ("onnxport", "torch eager"),
    ("fused", "torch eager"),
    ("fused int4", "torch eager"),
    ("onnxport", "genai builder fp32"),
    ("fused", "genai builder fp32"),
    ("onnxport fp32 in genai", "genai builder fp32"),
    ("fused fp32 in genai", "genai builder fp32"),
    ("fused int4", "genai builder int4"),
    ("onnxport int4 in genai", "genai builder int4"),
    ("fused int4 in genai", "genai builder int4"),
    ("onnxport", "optimum"),
    ("fused", "optimum"),
)
HEADS, FEATURES = 2, 64
_KEPT = "num_logits_to_keep"
_ROOM = 2048  # columns of a cache that stays in place

Arm = Callable[[int, int, int], Work]  # (rows, tokens, past) -> one call


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, cost = _convert(options.layers, folder)
        arms = {name: make() for name, make in _arms(model, folder, options).items()}
        rows = []
        for cell, *sizes in CELLS:
            print(f"{cell} ...", file=sys.stderr)
            rows.append((cell, measure({a: arm(*sizes) for a, arm in arms.items()}, options.turns, options.calls)))
    print(f"converted in {cost['cpu_s']:.1f} CPU s, peak {cost['peak_mib']:.0f} MiB, {cost['size']:.3f} of the weights")
    _print(rows, list(arms))
    RESULTS.parent.mkdir(exist_ok=True)
    cells = [{"cell": cell, **{arm: asdict(times) for arm, times in row.items()}} for cell, row in rows]
    said = {name: getattr(options, name) for name in ("layers", "threads", "turns", "calls")}
    RESULTS.write_text(json.dumps({"options": said, "conversion": cost, "cells": cells}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9, help="of each arm in a cell")
    parser.add_argument("--calls", type=int, default=5, help="timed ones in a turn")
    parser.add_argument("--genai", action="store_true", help="also in onnxruntime-genai")
    parser.add_argument("--peer-env", type=Path, help="virtual environment of optimum-onnx")
    parser.add_argument("--arms", type=lambda text: [name.strip() for name in text.split(",")], help="these alone")
    options = parser.parse_args()
    if options.turns < 2:
        parser.error("--turns is two at least")
    if int(os.environ.get("OMP_NUM_THREADS", options.threads)) != options.threads:
        parser.error("OMP_NUM_THREADS is set to another number than --threads")
    return options


def _print(rows: list[tuple[str, dict[str, Times]]], arms: list[str]) -> None:
    print(f"\n| cell, ms | {' | '.join(arms)} |\n|---|{'---|' * len(arms)}")
    for cell, row in rows:
        print(f"| {cell} | {' | '.join(f'{row[arm].median:.1f}' for arm in arms)} |")
    ratios = [(ours, other) for ours, other in RATIOS if ours in arms and other in arms]
    if ratios:
        print(f"\n| ratio | {' | '.join(f'{a} / {b}' for a, b in ratios)} |\n|---|{'---|' * len(ratios)}")
    for cell, row in rows if ratios else ():
        print(f"| {cell} | {' | '.join(f'{row[a].median / row[b].median:.2f}' for a, b in ratios)} |")


def _arms(model: Any, folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], Arm]]:
    """What is needed for the chosen arms alone is made: a variant is written when its first arm is."""
    out = folder / "out"
    known: dict[str, Callable[[], Arm]] = {
        "onnxport": lambda: _graph(out / "onnx" / "model.onnx", options),
        "fused": lambda: _graph(optimize(out, for_="cpu"), options, room=_ROOM),
        "onnxport int4": lambda: _graph(_int4(out, "model_q4"), options),
        "fused int4": lambda: _graph(_int4(out, "model_fused_q4"), options, room=_ROOM),
        "torch eager": lambda: _torch(model, options),
    }
    if options.peer_env:
        from benchmarks.generation_optimum import optimum_graph

        known["optimum"] = lambda: _graph(
            optimum_graph(options.peer_env, folder / "m", folder), options, last_logits=False
        )
    if options.genai:
        from benchmarks.generation_genai import genai_arms

        calls = options.turns * (options.calls + 1)
        known |= genai_arms(folder / "m", out, folder, options.threads, calls)
    unknown = [name for name in options.arms or () if name not in known]
    if unknown:
        raise SystemExit(f"No arm {', '.join(unknown)}; there are {', '.join(known)}.")
    return {name: make for name, make in known.items() if not options.arms or name in options.arms}


def _convert(layers: int, folder: Path) -> tuple[Any, dict[str, float]]:
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=HEADS, head_dim=FEATURES, vocab_size=32000, max_position_embeddings=2048,
        tie_word_embeddings=True, initializer_range=0.05, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with capture_process():
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
    return model, cost


def _int4(folder: Path, name: str) -> Path:
    """A graph of 4 bits; the first call writes them all."""
    file = folder / "onnx" / f"{name}.onnx"
    if not file.is_file():
        optimize(folder, for_="cpu")  # of it too there is one of 4 bits then
        quantize(folder, "int4")
    return file


def _graph(file: Path, options: argparse.Namespace, room: int = 0, *, last_logits: bool = True) -> Arm:
    """Args:
    room: columns of buffers that are both past and present; 0 is a past of the right length.
    last_logits: the graph can leave out other logits than the last, and does.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = options.threads, 3
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    optional = {value.name for value in session.get_overridable_initializers()}
    if last_logits != (_KEPT in optional):
        raise SystemExit(f"{file.name} has {'no' if last_logits else 'an'} input {_KEPT}.")

    def prepare(rows: int, tokens: int, past: int) -> Work:
        rng = np.random.default_rng(0)
        feed = {
            "input_ids": rng.integers(3, 32000, (rows, tokens)),
            "attention_mask": np.ones((rows, past + tokens), np.int64),
            "position_ids": np.tile(np.arange(past, past + tokens), (rows, 1)),
        }
        binding = session.io_binding()
        held = {}
        if last_logits:
            held[_KEPT] = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(1))
            binding.bind_ortvalue_input(_KEPT, held[_KEPT])
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
        # OrtValues over arrays do not keep them.
        return Work(lambda kept=held: session.run_with_iobinding(binding))  # type: ignore[misc]

    return prepare


def _torch(model: Any, options: argparse.Namespace) -> Arm:
    def prepare(rows: int, tokens: int, past: int) -> Work:
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

        return Work(call)

    return prepare


if __name__ == "__main__":
    main()
