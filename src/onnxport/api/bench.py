"""`bench`: how fast the graphs of a folder are on this machine, and how fast their source is."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component
from onnxport.bench.arms import Arm, Arrays, Opened, Run, open_session
from onnxport.bench.cells import make_cells, usual_lengths
from onnxport.bench.measure import Timing, measure
from onnxport.errors import UsageError
from onnxport.progress import Reporter, Silent
from onnxport.runtime.execution import Execution, execution

_SECONDS = 1.0  # of each arm at each size


@dataclass(frozen=True)
class GraphBenchmark:
    """The arms of one converted graph.

    Attributes:
        component: name of the graph; its variants are further arms.
        starts: of every arm.
        sizes: bytes on disk of every arm; 0 where that is not known.
        timings: of every arm at every size.
    """

    component: str
    starts: dict[str, Opened]
    sizes: dict[str, int]
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class Benchmark:
    """What `bench` measured.

    Attributes:
        machine: processor, processors that this process may use, versions.
        threads: of one operator; None: the processors that this process may use.
        provider: where the graphs ran.
    """

    path: Path
    machine: dict[str, str]
    threads: int | None
    graphs: tuple[GraphBenchmark, ...]
    provider: str = "CPU"


def bench(
    folder: str | Path,
    *,
    batches: Sequence[int] = (1, 8),
    lengths: Sequence[int] | None = None,
    threads: int | None = None,
    provider: str | None = None,
    against: str | Path | None = None,
    seconds: float = _SECONDS,
    reporter: Reporter | None = None,
) -> Benchmark:
    """Measure every graph of a folder, each in a process of its own; the arms take turns in random order.

    Args:
        folder: a folder that onnxport wrote.
        batches: rows of an input.
        lengths: tokens, samples or pixels of a side; by default usual ones that the graph takes. A decoder reads a
            prompt of that length, and writes a token after it.
        threads: of one operator.
        provider: where the graphs run: "CPU", "CUDA", "CoreML", "DirectML", "OpenVINO" or "WebGPU".
        against: the source model, which is run in its framework at the same inputs.
        seconds: of each arm at each size.
        reporter: told what is being measured.

    Returns:
        Times in seconds, memory in bytes.

    Raises:
        FolderError: no such folder, or it is damaged.
        UsageError: a size that a graph does not take, an arm that cannot be run, or a provider that onnxruntime does
            not have.

    Example:
        bench("out/minilm", batches=(1,), lengths=(16, 128)).graphs[0].timings[0].p50
    """
    opened = open_folder(folder)
    if min([*batches, *(lengths or ()), threads or 1]) < 1 or seconds <= 0:
        raise UsageError("A batch, length, time or number of threads is below 1.", hint="Give positive numbers.")
    how = execution(provider, threads)
    found = []
    with (reporter or Silent()).step("Measure") as step:
        for component in opened.manifest.converted():
            arms = _arms(opened, component, how, against)
            cells = make_cells(opened, component, batches, lengths or usual_lengths(component))
            starts, timings = measure(arms, cells, seconds, lambda text: step.done(text))
            sizes = {arm.name: arm.size_bytes for arm in arms}
            found.append(GraphBenchmark(component.name, starts, sizes, tuple(timings)))
        step.done(f"{sum(len(graph.timings) for graph in found)} times")
    return Benchmark(opened.path, _machine(), threads, tuple(found), how.provider)


def _arms(folder: Folder, component: Component, how: Execution, against: str | Path | None) -> list[Arm]:
    """The graph, its variants that take the same inputs, and the source."""
    manifest = folder.manifest
    names = [spec.name for spec in component.inputs]
    same = [one for one in manifest.components if manifest.origin(one) is component]
    arms = [
        Arm(
            one.name,
            open_session,
            {"path": str(folder.path), "component": one.name, **asdict(how)},
            one.size_bytes,
        )
        for one in same
        if [spec.name for spec in one.inputs] == names and not _is_static(one)
    ]
    if against is not None:
        settings = {"model": str(against), "task": manifest.task, "part": component.name, "threads": how.threads}
        arms.append(Arm(f"{manifest.framework} source", open_source, settings))
    return arms


def _is_static(component: Component) -> bool:
    return all(isinstance(axis, int) for spec in component.inputs for axis in spec.axes)


def open_source(model: str, task: str, part: str, threads: int | None) -> Run:
    """The source model in its framework, as a function of the graph's inputs."""
    from onnxport.loading.load import load_pipeline
    from onnxport.loading.model_to_export import from_pipeline, load_model_to_export
    from onnxport.loading.options import load_options
    from onnxport.loading.resolve import resolve_model

    options = load_options({})
    resolved = resolve_model(model, None, options, None)
    if resolved.framework == "tf":
        to_export = load_model_to_export(resolved, task, options)
    else:  # with its weights in memory, where a conversion leaves them in their files
        to_export = from_pipeline(load_pipeline(resolved, task, options).pipeline, "pt")
    source: Any = next((one.source for one in to_export.parts if one.name == part), to_export.parts[0].source)
    if resolved.framework == "tf":
        run: Run = source.run
        return run
    import torch

    if threads is not None:
        torch.set_num_threads(threads)

    def run_torch(inputs: Arrays) -> object:
        with torch.inference_mode():
            return source.invoke(source.model, source.tensors(inputs))

    return run_torch


def _machine() -> dict[str, str]:
    import onnxruntime

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "processor": _processor(), "processors": str(usable), "system": platform.system(),
        "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
