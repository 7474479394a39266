"""Arms of generation.py that run in onnxruntime-genai."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

from onnxport.targets import find_target
from tests import tiny_tokenizers

Arm = Callable[[int, int, int], Callable[[], object]]
_MORE = 256  # tokens of room after the past


def genai_arms(checkpoint: Path, converted: Path, folder: Path, threads: int) -> dict[str, Arm]:
    """Our folder and the builder's, float32 and int4.

    Args:
        checkpoint: what both are made of.
        converted: our folder, with a graph of 4 bits.
        folder: for copies.
        threads: of one operator.
    """
    arms = {}
    for name, component in (("fp32", "model"), ("int4", "model_q4")):
        copy = shutil.copytree(converted, folder / f"ours_{name}")
        find_target("genai")(copy, component=component)
        arms[f"onnxport {name} in genai"] = _arm(copy, threads)
        arms[f"genai builder {name}"] = _arm(_build(checkpoint, folder, name), threads)
    return arms


def _build(checkpoint: Path, folder: Path, precision: str) -> Path:
    source, output = folder / f"for_builder_{precision}", folder / f"builder_{precision}"
    shutil.copytree(checkpoint, source)
    tiny_tokenizers.roberta().save_pretrained(source)  # it copies one
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", output, "-p", precision,
         "-e", "cpu", "-c", folder / "cache"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return output


def _arm(folder: Path, threads: int) -> Arm:
    file = folder / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    file.write_text(json.dumps(config))
    model = genai.Model(str(folder))

    def start(ids: np.ndarray) -> genai.Generator:
        settings = genai.GeneratorParams(model)
        rows, length = ids.shape
        settings.set_search_options(
            max_length=length + _MORE, min_length=length + _MORE, batch_size=rows, do_sample=False
        )
        generator = genai.Generator(model, settings)
        generator.append_tokens(ids.astype(np.int32))
        return generator

    def prepare(rows: int, tokens: int, past: int) -> Callable[[], object]:
        ids = np.random.default_rng(0).integers(3, 32000, (rows, past or tokens))
        if not past:
            return lambda: start(ids)
        generator = start(ids)
        generator.generate_next_token()  # chooses from the logits of the prompt; from the second on the graph runs
        return generator.generate_next_token

    return prepare
