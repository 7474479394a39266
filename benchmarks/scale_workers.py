"""The processes that benchmarks/scale.py measures besides commands: each prints one JSON document.

torch MODEL OUT TASK       torch.onnx.export of from_pretrained, and nothing else
session GRAPH [--mapped | --ours]   load a graph in ONNX Runtime, then run it once
errors MODEL GRAPH TASK    largest difference between a graph and the model at a size that was not traced
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import memory_now

AUTO = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
}


def main() -> None:
    name, *arguments = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # the exporter prints its progress
        workers: dict[str, Callable[..., dict[str, Any]]] = {"torch": export, "session": session, "errors": errors}
        document = workers[name](*arguments)
    print(json.dumps(document))


def export(model_folder: str, out: str, task: str) -> dict[str, Any]:
    """Both axes dynamic, the exporter's own defaults, one input of two rows."""
    steps: dict[str, float] = {}
    with _timed(steps, "load"):
        import torch

        model = _load(model_folder, task)
        inputs = {name: torch.from_numpy(array) for name, array in _inputs(("input_ids", "attention_mask"), 2, 11)}
    axes = {0: torch.export.Dim("batch_size"), 1: torch.export.Dim("sequence_length")}
    Path(out).mkdir(parents=True)
    with _timed(steps, "export"):
        torch.onnx.export(
            model,
            (),
            str(Path(out, "model.onnx")),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(inputs, axes),
            external_data=True,
        )
    return {"cpu": steps, "architecture": type(model).__name__}


def session(graph: str, how: str = "") -> dict[str, Any]:
    """Seconds and resident memory.

    `--mapped` switches off the copies that ONNX Runtime makes of weights; `--ours` is
    `OnnxSession(map_weights=True)`, which maps weights inside the graph too.
    """
    import onnxruntime

    from onnxport.runtime.session import OnnxSession

    options = onnxruntime.SessionOptions()
    if how == "--mapped":
        options.add_session_config_entry("session.disable_prepacking", "1")
    empty = memory_now()
    wall, cpu = time.perf_counter(), time.process_time()
    loaded: Any
    if how == "--ours":
        loaded = OnnxSession(graph, map_weights=True)
    else:
        loaded = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    load_s, load_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    after_load = memory_now()
    inputs = loaded.inputs if how == "--ours" else loaded.get_inputs()
    feed = dict(_inputs([value.name for value in inputs], 1, 16))
    runs = []
    for _ in range(3):
        wall = time.perf_counter()
        loaded.run(feed) if how == "--ours" else loaded.run(None, feed)
        runs.append(time.perf_counter() - wall)
    return {
        "load_s": load_s,
        "load_cpu_s": load_cpu_s,
        "first_run_s": runs[0],
        "run_s": min(runs[1:]),
        "empty": empty,
        "after_load": after_load,
        "after_run": memory_now(),
    }


def errors(model_folder: str, graph: str, task: str) -> dict[str, Any]:
    """The first outputs of both, compared; the graph's session ends before the model is loaded."""
    import numpy as np
    import onnxruntime
    import torch

    loaded = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feed = dict(_inputs([value.name for value in loaded.get_inputs()], 3, 29))
    got = loaded.run(None, feed)[0]
    del loaded
    with torch.no_grad():
        model = _load(model_folder, task)
        want = model(**{name: torch.from_numpy(array) for name, array in feed.items()})[0].numpy()
    if got.shape != want.shape:
        raise SystemExit(f"shapes differ: {got.shape} and {want.shape}")
    return {"max_abs_error": float(np.abs(got - want).max()), "scale": float(np.abs(want).max())}


def _load(folder: str, task: str) -> Any:
    import torch
    import transformers

    model = getattr(transformers, AUTO[task]).from_pretrained(folder, dtype=torch.float32).eval()
    model.config.use_cache = False
    return model


def _inputs(names: Any, batch: int, length: int) -> Iterator[tuple[str, Any]]:
    """Tokens that are bytes of the generated tokenizer; masks and positions as a full batch has them."""
    import numpy as np

    for name in names:
        if name == "input_ids":
            yield name, np.random.default_rng(0).integers(5, 261, (batch, length), dtype=np.int64)
        elif name == "position_ids":
            yield name, np.tile(np.arange(length, dtype=np.int64), (batch, 1))
        else:
            yield name, np.full((batch, length), name == "attention_mask", dtype=np.int64)


@contextmanager
def _timed(steps: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    steps[name] = time.process_time() - start


if __name__ == "__main__":
    main()
