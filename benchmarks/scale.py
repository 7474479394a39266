"""What it costs to convert models of 0.4 to 10 GB: ours, torch.onnx.export, optimum-onnx, and copying the weights.

    .venv/bin/python benchmarks/scale.py --models bert-base gpt2        # all models need 35 GB of disk
    .venv/bin/python benchmarks/scale.py --models llama-10gb --arms onnxport cp --limit 2GiB
    .venv/bin/python benchmarks/scale.py --peer-env .peer --errors --repeat 3 --json benchmarks/results/scale.json

Checkpoints are generated (scale_models.py). Every arm is a process of its own (measure.py); the arms
alternate, medians are shown, nothing is dropped from the page cache. Ratios are to the bytes of the
weights that the task uses, as stored. Columns that need explaining:

    export CPU s   ours: the steps load, infer shapes, export and write, without running the model and
                   verifying; torch: its load and export, all that it does
    flush s        what it left unwritten in the page cache; ours flushes what it publishes itself
    peak anon      without the pages of mapped files, which the kernel takes back when it needs them

A row for each arm is followed by what the graphs cost to load in ONNX Runtime, as it is by default and
with session.disable_prepacking=1 ("mapped"), which lets it use weights where they lie in the file, and our
graphs through OnnxSession(map_weights=True) ("ours mapped"), which does so for weights inside the graph too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.convert import peer_command
from benchmarks.measure import Measured, flush, forget, measure, size_of
from benchmarks.memory_limit import Limit, memory_limit, parse_size
from benchmarks.scale_models import MODELS, Model

HERE = Path(__file__).parent
ARMS = ("onnxport", "torch", "optimum", "cp")
EXPORT_STEPS = ("load", "infer shapes", "export", "write")
OFFLINE = {"HF_HUB_OFFLINE": "1"}
MIB = 2**20
COLUMNS = (
    "arm", "CPU s", "export CPU s", "wall s", "flush s", "peak RSS MiB (/weights)", "peak anon MiB (/weights)",
    "disk read MB", "disk written MB", "output/weights", "max error",
)  # fmt: skip
# How a graph is loaded, and the worker's argument for it.
_KINDS: tuple[tuple[str, list[str]], ...] = (("default", []), ("mapped", ["--mapped"]), ("ours mapped", ["--ours"]))
LOADING = ("graph", "session", "load s", "anon MiB", "RSS MiB", "anon after a run", "RSS after a run", "run ms")


@dataclass
class Bench:
    """One model's checkpoint and where its results go."""

    name: str
    model: Model
    folder: Path
    size: dict[str, int]
    options: argparse.Namespace
    loading: list[dict[str, Any]] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def out(self) -> Path:
        return self.folder / "outputs" / "out"

    def clear(self) -> None:
        """Delete what an arm wrote, also what a killed one left beside its output."""
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.parent.mkdir()

    def command(self, arm: str) -> list[str]:
        """What is measured; it writes `out`."""
        source, out, task = str(self.checkpoint), str(self.out), self.model.task
        if arm == "onnxport":
            return [sys.executable, "-m", "onnxport", "convert", source, out, "--task", task, "--json", "--quiet"]
        if arm == "torch":
            return worker("torch", source, out, task)
        if arm == "optimum":
            return [part.format(out=out) for part in peer_command(self.options.peer_env, self.checkpoint, task)]
        return ["cp", "-r", source, out]


def main() -> None:
    options = _arguments()
    # A terminated benchmark must not leave tens of gigabytes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    # Never the folder that was given itself: it is deleted at the end.
    work = options.work / "onnxport-scale" if options.work else Path(tempfile.mkdtemp(prefix="onnxport-scale-"))
    results: dict[str, Any] = {"machine": _machine(), "models": {}}
    try:
        for name in options.models:
            results["models"][name] = _model(name, work / name, options)
            if options.json:  # after every model: what was measured is not lost if a later one fails
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(results, indent=2) + "\n")
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--limit", type=parse_size, help="also run ours with this much memory (2GiB), if cgroups allow")
    parser.add_argument("--peer-env", type=Path, help="virtual environment of optimum-onnx, made if absent")
    parser.add_argument("--errors", action="store_true", help="compare the others' graphs with PyTorch; ours always")
    parser.add_argument("--no-loading", action="store_true", help="do not load the graphs in ONNX Runtime")
    parser.add_argument("--work", type=Path, help="where to make the working folder; the system's temporary folder")
    parser.add_argument(
        "--keep", action="store_true", help="keep the checkpoints; a run with the same --work uses them"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if not options.peer_env:
        options.arms = [arm for arm in options.arms if arm != "optimum"]
    return options


def _model(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All arms of one model. Its folder is removed at the end, unless the checkpoint is kept."""
    size = _generated(name, folder)
    bench = Bench(name, MODELS[name], folder, size, options)
    shown = f"{size['weights'] / 1e9:.2f} GB in {size['files']} file(s), {size['used'] / 1e9:.2f} GB used"
    print(f"\n## {name}: {bench.model.task}, {shown}\n", flush=True)
    needed = 2.2 * size["used"] * 32 / size["stored_bits"]
    if shutil.disk_usage(folder).free < needed:
        print(f"skipped: {needed / 1e9:.0f} GB of free disk are needed")
        return {"size": size, "failure": "not enough disk"}
    _print_row(COLUMNS, header=True)
    rows = _alternate(bench)
    limited = _limited(bench) if options.limit else None
    bench.clear()
    if bench.loading:
        print()
        _print_row(LOADING, header=True)
        for row in bench.loading:
            _print_row(_loading_cells(row))
    if limited:
        print("\n" + _limit_line(limited))
    if not options.keep:
        shutil.rmtree(folder)
    return {"size": size, "arms": rows, "loading": bench.loading, "limited": limited}


def _generated(name: str, folder: Path) -> dict[str, int]:
    """What generate() returns; a checkpoint that was kept is used again. In a process of its own, for its memory."""
    marker = folder / "generated.json"
    if not marker.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, str(HERE / "scale_models.py"), name, str(folder / "checkpoint")]
        made = measure(command)
        if made.failure:
            raise SystemExit(f"could not generate {name}: {made.stderr[-2000:]}")
        facts = json.loads(made.stdout) | {"generated_s": made.wall_s, "generated_peak_rss": made.peak_rss}
        marker.write_text(json.dumps(facts))
        flush(folder)
    return json.loads(marker.read_text())


def _alternate(bench: Bench) -> dict[str, dict[str, Any]]:
    """Every arm once, then every arm again; a row is printed when an arm's last run has ended."""
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in bench.options.arms}
    rows: dict[str, dict[str, Any]] = {}
    for repetition in range(bench.options.repeat):
        last = repetition == bench.options.repeat - 1
        for arm in bench.options.arms:
            if arm in rows:  # failed before
                continue
            run = _run(bench, arm)
            if last and "failure" not in run and arm != "cp":
                _look_at_graph(bench, arm, run)
            runs[arm].append(run)
            if last or "failure" in run:
                rows[arm] = _median(runs[arm])
                _print_row(_cells(arm, rows[arm]))
    return rows


def _run(bench: Bench, arm: str, limit: Limit | None = None) -> dict[str, Any]:
    """One run of an arm; what it wrote lies in `out`."""
    bench.clear()
    os.sync()  # what the arm before left to be written is not this one's work
    measured = measure(bench.command(arm), environment=OFFLINE, before_exec=limit.enter if limit else None)
    row = {key: value for key, value in asdict(measured).items() if key not in ("stdout", "stderr", "exit_code")}
    row["weights"] = bench.size["used" if arm != "cp" else "weights"]
    if measured.failure:
        return row | {"failure": measured.failure}
    row["flush_s"] = flush(bench.out)
    row["output_bytes"] = size_of(bench.out)
    row["output_ratio"] = row["output_bytes"] / row["weights"]
    return row | _said(measured, arm)


def _said(measured: Measured, arm: str) -> dict[str, Any]:
    """What a command told on stdout: CPU seconds of its steps, and for ours the errors that it found."""
    if arm not in ("onnxport", "torch"):
        return {}
    document = json.loads(measured.stdout)
    steps = document["cpu"]
    said: dict[str, Any] = {"steps_cpu_s": steps, "steps_wall_s": document.get("timings")}
    said["export_cpu_s"] = sum(value for step, value in steps.items() if step in EXPORT_STEPS)
    cases = [case for component in document.get("components", []) for case in component["verification"]["cases"]]
    if cases:
        said["max_abs_error"] = max(output["max_abs_error"] for case in cases for output in case["outputs"])
    return said


def _look_at_graph(bench: Bench, arm: str, run: dict[str, Any]) -> None:
    """Load the graph in fresh processes, and compare it where that is asked for."""
    graph = str(min(bench.out.rglob("*.onnx")))
    if bench.options.errors and "max_abs_error" not in run:
        found = measure(worker("errors", str(bench.checkpoint), graph, bench.model.task), environment=OFFLINE)
        run["max_abs_error"] = None if found.failure else json.loads(found.stdout)["max_abs_error"]
        run["compared"] = found.failure
    if bench.options.no_loading:
        return
    for kind, arguments in _KINDS if arm == "onnxport" else _KINDS[:2]:
        loaded = measure(worker("session", graph, *arguments))
        row = {"failure": loaded.failure} if loaded.failure else json.loads(loaded.stdout)
        bench.loading.append({"graph": arm, "session": kind, "peak_rss": loaded.peak_rss, **row})


def _limited(bench: Bench) -> dict[str, Any]:
    """Ours in a control group. The checkpoint leaves the page cache first, to be charged to the group."""
    with memory_limit(bench.options.limit) as limit:
        if limit is None:
            return {"skipped": "no cgroup here"}
        forget(bench.checkpoint)
        run = _run(bench, "onnxport", limit)
        _print_row(_cells(f"onnxport in {bench.options.limit / 2**30:.2f} GiB", run))
        return run | {"cgroup": limit.report()}


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The last run, with the medians of what varies."""
    row = {**runs[-1], "runs": len(runs)}
    for key in ("cpu_s", "wall_s", "flush_s", "export_cpu_s", "peak_rss", "peak_anon", "peak_file"):
        if key in row:
            row[key] = statistics.median(run[key] for run in runs if key in run)
    return row


def worker(*arguments: str) -> list[str]:
    """The command of one of scale_workers.py."""
    return [sys.executable, str(HERE / "scale_workers.py"), *arguments]


def _cells(arm: str, row: dict[str, Any]) -> list[str]:
    def memory(size: int) -> str:
        return f"{size / MIB:.0f} ({size / row['weights']:.2f})"

    return [
        f"{arm} FAILED: {row['failure']}" if "failure" in row else arm,
        f"{row['cpu_s']:.1f}",
        f"{row['export_cpu_s']:.1f}" if "export_cpu_s" in row else "",
        f"{row['wall_s']:.1f}",
        f"{row['flush_s']:.1f}" if "flush_s" in row else "",
        memory(row["peak_rss"]),
        memory(row["peak_anon"]),
        f"{row['io'].get('read_bytes', 0) / 1e6:.0f}",
        f"{row['io'].get('write_bytes', 0) / 1e6:.0f}",
        f"{row['output_ratio']:.3f}" if "output_ratio" in row else "",
        f"{row['max_abs_error']:.1e}" if row.get("max_abs_error") is not None else "",
    ]


def _loading_cells(row: dict[str, Any]) -> list[str]:
    if row.get("failure"):
        return [row["graph"], row["session"], f"FAILED: {row['failure']}", "", "", "", "", ""]
    sizes = [row[when][kind] for when in ("after_load", "after_run") for kind in ("anon", "rss")]
    cells = [f"{size / MIB:.0f}" for size in sizes]
    return [row["graph"], row["session"], f"{row['load_s']:.2f}", *cells, f"{row['run_s'] * 1e3:.0f}"]


def _limit_line(limited: dict[str, Any]) -> str:
    if "skipped" in limited:
        return f"limit: skipped, {limited['skipped']}"
    group = limited["cgroup"]
    peak = f"{group['peak'] / MIB:.0f} MiB with page cache" if group["peak"] else "unknown"
    return (
        f"limit {group['limit'] / MIB:.0f} MiB: {limited.get('failure') or 'exit 0'}; peak {peak}; "
        f"{group['killed']} killed for memory"
    )


def _print_row(cells: Any, header: bool = False) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)
    if header:
        print("|" + "---|" * len(cells), flush=True)


def _machine() -> dict[str, Any]:
    packages = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "numpy")
    return {
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load": os.getloadavg(),  # others at work on the machine when it began
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
