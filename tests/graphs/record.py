"""Converts some 80 tiny models and compares every graph with the committed record; ten minutes on two idle cores.

    python -m tests.graphs.record [--update] [--only NAME ...] [--jobs 2]

Exit code 1 where anything differs; `--update` writes the record instead. Of each graph are recorded: its inputs,
outputs and axes, restrictions and repairs (from the manifest); operators; and three hashes:

- `structure`: of everything but the numbers of weights and tables. It is the same on every machine.
- `weights`: of these numbers by name. The checkpoints' are the same on every machine (`weights.py`). What torch
  computes while it exports, tables of cosines and powers such as rotary frequencies, may differ in the last bit
  between processors (AVX2, AVX512): such a graph is reported as "weights differ", and nothing else of it does.
- `sha256`: of each file. Where it alone differs, the same numbers lie in other places.

Graphs that ONNX Runtime optimized have no hashes: they are made for the processor at hand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.graphs.compare import differences
from tests.graphs.models import MODELS
from tests.graphs.work import work

RECORD = Path(__file__).parent / "record.json"
_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "tensorflow", "keras", "tf2onnx")


def main(arguments: list[str] | None = None) -> int:
    """The program; its exit code."""
    given = _parser().parse_args(arguments)
    names = [name for name in MODELS if not given.only or any(part in name for part in given.only)]
    if not names:
        print(f"no model of the table has {' or '.join(given.only)} in its name")
        return 2
    started = time.monotonic()
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"versions": {}, "models": {}}
    kept = {name: part for name, part in record["models"].items() if name in MODELS}
    found: dict[str, Any] = {}
    count = 0
    for name, part, seconds, traces in _worked(names, given.jobs):
        found[name] = part
        print(f"{len(found):3}/{len(names)}  {seconds:6.1f} s  {name}: {_summary(part)}", flush=True)
        if traces:
            print(traces, flush=True)
        if given.update:  # at once: what is interrupted goes on with --only
            models = dict(sorted({**kept, **found}.items()))
            RECORD.write_text(_written({"versions": _versions(), "models": models}) + "\n", encoding="utf-8")
        else:
            count += _compared({name: kept[name]} if name in kept else {}, {name: part})
    graphs = sum(len(part.get("graphs", {})) for part in found.values())
    print(f"{len(found)} models, {graphs} graphs, {time.monotonic() - started:.0f} s")
    if given.update:
        return 0
    if not given.only:  # what the table has no longer
        count += _compared({name: part for name, part in record["models"].items() if name not in MODELS}, {})
    for package in _PACKAGES:
        was, now = record["versions"].get(package), _versions().get(package)
        if was != now:
            print(f"note: recorded with {package} {was}, this is {now}")
    print(f"{count} differences; if they are meant: make graphs ARGS=--update" if count else "all as recorded")
    return 1 if count else 0


def _compared(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print what differs; how many graphs, steps and files that are."""
    lines = list(differences(old, new))
    for line in lines:
        print(f"DIFFERS  {line}", flush=True)
    return len(lines)


def _worked(names: list[str], jobs: int) -> Iterator[tuple[str, dict[str, Any], float, str]]:
    # transformers and tf2onnx go through sets of names, and so their graphs depend on how strings are hashed.
    os.environ["PYTHONHASHSEED"] = "0"
    for variable, value in {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(variable, value)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, name) for name in names]):
            yield future.result()


def _summary(part: dict[str, Any]) -> str:
    words = [f"{len(part.get('graphs', {}))} graphs"]
    return "; ".join([*words, *(f"{step}: {text[:150]}" for step, text in part.get("errors", {}).items())])


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _written(value: Any, indent: int = 0, key: str = "") -> str:
    """JSON with a line for each tensor, for the operators and for what is short: differences can be read."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or key == "operators" or (indent == 5 and len(flat) < 110):
        return flat
    rows = (f"{'  ' * (indent + 1)}{json.dumps(k)}: {_written(item, indent + 1, k)}" for k, item in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{'  ' * indent}}}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.graphs.record", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the record instead of comparing with it")
    parser.add_argument("--only", action="append", metavar="NAME", help="models with NAME in theirs; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
