"""Many tiny conversions: `onnxport batch` against one command after the other.

    .venv/bin/python benchmarks/batch.py --jobs 24 --workers 1 2

The arms convert the same checkpoints. "commands" starts `onnxport convert` for each, so it pays for the imports every
time. Prints a table, and writes JSON with --json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnxport.api.batch import batch
from onnxport.batch.jobs import Job
from tests.tiny import save

MODELS = ("bert-text-classification", "bert-fill-mask", "distilbert-text-classification", "vit-image-classification")


def main() -> None:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=24, help="conversions of each arm with workers")
    parser.add_argument("--commands", type=int, default=4, help="conversions of the arm of single commands")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {model: save(model, folder / model) for model in MODELS}
        rows = [_commands(list(models.values()), chosen.commands, folder / "commands")]
        rows += [_batch(models, chosen.jobs, workers, folder / "zoo") for workers in chosen.workers]
    print(f"{'arm':<12}{'jobs':>6}{'seconds':>10}{'a job':>8}{'CPU s a job':>13}{'speed':>8}")
    for row in rows:
        row["speed"] = rows[0]["a_job"] / row["a_job"]
        print(f"{row['arm']:<12}{row['jobs']:>6}{row['seconds']:>10.1f}{row['a_job']:>8.2f}{row['cpu']:>13}"
              f"{row['speed']:>7.2f}x")  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


def _commands(models: list[Path], count: int, output: Path) -> dict[str, object]:
    start = time.monotonic()
    for number in range(count):
        command = ["-m", "onnxport", "convert", str(models[number % len(models)]), str(output / str(number)), "--quiet"]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return _row("commands", count, time.monotonic() - start, "")


def _batch(models: dict[str, Path], count: int, workers: int, output: Path) -> dict[str, object]:
    names = [MODELS[number % len(MODELS)] for number in range(count)]
    found = batch([Job(f"{n}-{name}", str(models[name])) for n, name in enumerate(names)], output, workers=workers)
    assert found.ok, [record.message for record in found.records if not record.ok]
    shutil.rmtree(output)
    cpu = sum(record.cpu_seconds for record in found.records) / count
    return _row(f"{workers} workers", count, found.seconds, f"{cpu:.2f}")


def _row(arm: str, jobs: int, seconds: float, cpu: str) -> dict[str, object]:
    return {"arm": arm, "jobs": jobs, "seconds": seconds, "a_job": seconds / jobs, "cpu": cpu}


if __name__ == "__main__":
    main()
