"""The graph that optimum-onnx makes of the checkpoint of generation.py, in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.convert import peer_command


def optimum_graph(environment: Path, checkpoint: Path, folder: Path) -> Path:
    """Export a checkpoint there.

    Args:
        environment: virtual environment with optimum-onnx; made if absent.
        checkpoint: as transformers 5 writes it.
        folder: for the copy that the older transformers reads, and for the graph.
    """
    source, output = folder / "for_optimum", folder / "optimum"
    shutil.copytree(checkpoint, source)
    file = source / "config.json"
    file.write_text(json.dumps(_as_before(json.loads(file.read_text()))))
    command = peer_command(environment, source, "text-generation-with-past")
    done = subprocess.run(
        [part.format(out=output) for part in command],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"optimum-onnx failed:\n{done.stderr[-2000:]}")
    return output / "model.onnx"


def _as_before(config: dict[str, object]) -> dict[str, object]:
    """config.json with the names of transformers 4."""
    rope = config.pop("rope_parameters", None)
    if isinstance(rope, dict):
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype", "float32")
    return config
