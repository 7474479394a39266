"""Which architectures convert: tiny random checkpoints of tests/tiny.py, one row each.

    .venv/bin/python benchmarks/architectures.py                 # all
    .venv/bin/python benchmarks/architectures.py bert vit clip   # those whose name contains a word

Prints dynamic axes, what is fixed, the largest error over all verified sizes, relative to the
output's scale, and CPU seconds of the conversion alone. Writes benchmarks/results/architectures.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from onnxport import OnnxPortError, convert
from onnxport.system.output_capture import capture_process
from tests.tiny import TINY, save

RESULTS = Path(__file__).parent / "results" / "architectures.json"


def main() -> None:
    torch.set_num_threads(1)
    words = sys.argv[1:]
    rows = []
    print("| model | task | dynamic axes | fixed | cases | max error | of scale | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, tiny in TINY.items():
        if words and not any(word in name for word in words):
            continue
        row = _row(name, tiny.task)
        rows.append(row)
        if "failure" in row:
            print(f"| {row['model']} | {row['task']} | FAILED: {row['failure']} | | | | | |", flush=True)
            continue
        cells = [row["model"], row["task"], ", ".join(row["dynamic"]), ", ".join(row["fixed"]), str(row["cases"])]
        numbers = [f"{row['max_abs_error']:.1e}", f"{row['max_rel_error']:.1e}", f"{row['cpu_s']:.1f}"]
        print("| " + " | ".join(cells + numbers) + " |", flush=True)
    failed = sum("failure" in row for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} converted and verified")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


def _row(name: str, task: str) -> dict:
    row: dict = {"model": name.removesuffix(f"-{task}"), "task": task}
    with tempfile.TemporaryDirectory() as folder:
        with capture_process():
            source = save(name, Path(folder) / "source")
        try:
            conversion = convert(None, source, Path(folder) / "out", pipeline_name=task)
        except OnnxPortError as error:
            return {**row, "failure": error.message}
    component = conversion.manifest.components[0]
    verification = component.verification
    axes = dict.fromkeys(axis for spec in component.inputs for axis in spec.axes if isinstance(axis, str))
    return {
        **row,
        "dynamic": list(axes),
        "fixed": [f"{r.axis} ({r.rule})" for r in component.restrictions if r.rule.startswith("fixed")],
        "restrictions": [[r.axis, r.rule, r.reason] for r in component.restrictions],
        "fixes": list(component.fixes),
        "cases": len(verification.cases),
        "max_abs_error": verification.max_abs_error,
        "max_rel_error": verification.max_rel_error,
        "cpu_s": sum(conversion.cpu.values()),
    }


if __name__ == "__main__":
    main()
