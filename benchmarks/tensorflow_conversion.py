"""What the conversion of Keras models and SavedModels costs, and how it compares with tf2onnx's own command.

    .venv/bin/python benchmarks/tensorflow_conversion.py                 # all; the 2.4 GB model takes some minutes
    .venv/bin/python benchmarks/tensorflow_conversion.py --only "ResNet-50" "basic-pitch"

Each conversion is a process: CPU and wall seconds, peak of resident memory. Where tf2onnx's command takes the
input (SavedModels), it runs on it too, right after; it verifies nothing. The comparison of basic-pitch is with the
graph that its authors ship: largest difference on the same chords, size, milliseconds a call (median, alternating).
Writes benchmarks/results/tensorflow_conversion.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import onnx
import onnxruntime

from benchmarks.measure import measure
from benchmarks.tensorflow_models import MODELS
from tests.real.test_basic_pitch import NAMES, SAVED_MODEL, THEIRS, chords

RESULTS = Path(__file__).parent / "results" / "tensorflow_conversion.json"
_PITCH = "basic-pitch (trained)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="Names of models, or the beginning of one.")
    parser.add_argument("--repeat", type=int, default=15, help="Calls of the comparison.")
    options = parser.parse_args()
    wanted = [name for name in (*MODELS, _PITCH) if not options.only or name.startswith(tuple(options.only))]
    rows, comparison = [], None
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(wanted):
            row = _convert(name, Path(folder) / str(number))
            rows.append(row)
            print(_line(row), file=sys.stderr)
            if name == _PITCH and row["failure"] is None:
                comparison = _compare(Path(row.pop("folder")), options.repeat)
    print(
        "| model | opset | dynamic axes | cases | max error | CPU s | wall s | peak MiB | weights MB | tf2onnx alone |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(_line(row))
    if comparison is not None:
        print("\nbasic-pitch, ours / its authors':", json.dumps(comparison))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "basic-pitch": comparison}, indent=2) + "\n")


def _convert(name: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    source = SAVED_MODEL
    if name != _PITCH:
        source = folder / f"model{MODELS[name][0]}"
        made = measure([sys.executable, str(Path(__file__).with_name("tensorflow_models.py")), name, str(source)])
        if made.failure is not None:
            return {"model": name, "failure": f"not made: {made.failure}"}
    target = folder / "out"
    cost = measure([sys.executable, "-m", "onnxport", "convert", str(source), str(target), "--json", "--quiet"])
    row: dict[str, Any] = {
        "model": name, "failure": cost.failure, "cpu_s": cost.cpu_s, "wall_s": cost.wall_s, "peak_rss": cost.peak_rss,
        "tf2onnx": _peer(source, folder) if source.is_dir() and (source / "saved_model.pb").is_file() else None,
    }  # fmt: skip
    if cost.failure is None:
        document = json.loads(cost.stdout)
        components = document["components"]
        axes = [axis for c in components for spec in c["inputs"] for axis in spec["axes"] if isinstance(axis, str)]
        checks = [c["verification"] for c in components]
        row |= {
            "folder": str(target), "opset": components[0]["opset"], "axes": list(dict.fromkeys(axes)),
            "cases": sum(len(check["cases"]) for check in checks),
            "max_abs_error": max(o["max_abs_error"] for v in checks for c in v["cases"] for o in c["outputs"]),
            "weights_bytes": 4 * max(c["parameters"] for c in components),
        }  # fmt: skip
    return row


def _peer(source: Path, folder: Path) -> dict[str, Any]:
    """tf2onnx's own command: seconds and memory, or why it failed. What it writes is not checked."""
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(source), "--opset", "18"]
    cost = measure([*command, "--output", str(folder / "peer.onnx")], environment={"TF_CPP_MIN_LOG_LEVEL": "3"})
    failure = cost.failure
    if failure is None:
        try:
            onnxruntime.InferenceSession(folder / "peer.onnx", providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever the run time says is the finding
            failure = f"exit 0, but ONNX Runtime says: {str(error).splitlines()[0][:90]}"
    return {"cpu_s": cost.cpu_s, "wall_s": cost.wall_s, "peak_rss": cost.peak_rss, "failure": failure}


def _line(row: dict[str, Any]) -> str:
    if row["failure"] is not None:
        return f"| {row['model']} | {row['failure']} |" + " |" * 8
    peer = row["tf2onnx"]
    alone = ""
    if peer is not None:
        alone = peer["failure"] or f"{peer['cpu_s']:.1f} CPU s, {peer['peak_rss'] / 2**20:.0f} MiB"
    return (
        f"| {row['model']} | {row['opset']} | {', '.join(row['axes'])} | {row['cases']} | {row['max_abs_error']:.1e} "
        f"| {row['cpu_s']:.1f} | {row['wall_s']:.1f} | {row['peak_rss'] / 2**20:.0f} "
        f"| {row['weights_bytes'] / 1e6:.1f} | {alone} |"
    )


def _compare(ours: Path, repeat: int) -> dict[str, Any]:
    """Our graph of basic-pitch and its authors', on one thread, on the same two seconds of three chords."""
    audio = chords(3)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    files = {"ours": ours / "onnx" / "model.onnx", "theirs": THEIRS}
    sessions = {
        name: onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(repeat + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            values = session.run(None, {session.get_inputs()[0].name: audio})
            if number:  # the first warms up
                times[name].append(1000 * (time.perf_counter() - start))
            found[name] = dict(zip([value.name for value in session.get_outputs()], values, strict=True))
    errors = {name: found["ours"][name] - found["theirs"][other] for name, other in NAMES.items()}
    return {
        "largest difference": {name: float(abs(error).max()) for name, error in errors.items()},
        "bytes": {name: file.stat().st_size for name, file in files.items()},
        "nodes": {name: len(onnx.load(file).graph.node) for name, file in files.items()},
        "ms a call": {name: round(statistics.median(values), 2) for name, values in times.items()},
    }


if __name__ == "__main__":
    main()
