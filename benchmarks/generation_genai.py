"""Arms of generation.py that run in onnxruntime-genai."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

from benchmarks.turns import Work
from onnxport import optimize, quantize
from onnxport.targets import find_target
from tests import tiny_tokenizers

Arm = Callable[[int, int, int], Work]


def genai_arms(
    checkpoint: Path, converted: Path, folder: Path, threads: int, calls: int
) -> dict[str, Callable[[], Arm]]:
    """Our folder and the builder's, float32 and int4, by the names of the arms; each is made when it is called.

    Args:
        checkpoint: what both are made of.
        converted: our folder.
        folder: for copies.
        threads: of one operator.
        calls: of one arm in a cell; there is room for as many tokens.
    """
    arms: dict[str, Callable[[], Arm]] = {}
    for precision, component in (("fp32", ""), ("int4", "_q4")):
        for kind, name in (("onnxport", "model"), ("fused", "model_fused")):
            arms[f"{kind} {precision} in genai"] = partial(
                _ours, converted, folder, f"{name}{component}", threads, calls
            )
        arms[f"genai builder {precision}"] = partial(_builder, checkpoint, folder, precision, threads, calls)
    return arms


def _ours(converted: Path, folder: Path, component: str, threads: int, calls: int) -> Arm:
    graphs = converted / "onnx"
    if "fused" in component and not (graphs / "model_fused.onnx").is_file():
        optimize(converted, for_="cpu")
    if not (graphs / f"{component}.onnx").is_file():
        quantize(converted, "int4")
    copy = shutil.copytree(converted, folder / f"ours_{component}")
    find_target("genai")(copy, component=component)
    return _arm(copy, threads, calls)


def _builder(checkpoint: Path, folder: Path, precision: str, threads: int, calls: int) -> Arm:
    source, output = folder / f"for_builder_{precision}", folder / f"builder_{precision}"
    shutil.copytree(checkpoint, source)
    tiny_tokenizers.roberta().save_pretrained(source)  # it copies one
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", output, "-p", precision,
         "-e", "cpu", "-c", folder / "cache"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return _arm(output, threads, calls)


def _arm(folder: Path, threads: int, calls: int) -> Arm:
    file = folder / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    file.write_text(json.dumps(config))
    model = genai.Model(str(folder))

    def generator(rows: int, length: int, room: int) -> genai.Generator:
        settings = genai.GeneratorParams(model)
        settings.set_search_options(
            max_length=length + room, min_length=length + room, batch_size=rows, do_sample=False
        )
        return genai.Generator(model, settings)

    def decode(rows: int, past: int) -> Work:
        """A step on; the cell's past is the middle of all."""
        ids = np.random.default_rng(0).integers(3, 32000, (rows, past - calls // 2))
        writer = generator(rows, ids.shape[1], calls + 2)
        writer.append_tokens(ids.astype(np.int32))
        writer.generate_next_token()  # chooses from the logits of the prompt; from the second on the graph runs
        return Work(writer.generate_next_token)

    def prefill(rows: int, tokens: int) -> Work:
        ids = np.random.default_rng(0).integers(3, 32000, (rows, tokens)).astype(np.int32)
        waiting = []

        def before() -> None:
            waiting[:] = [generator(rows, tokens, 1)]

        return Work(lambda: waiting[0].append_tokens(ids), before)

    return lambda rows, tokens, past: decode(rows, past) if past else prefill(rows, tokens)
