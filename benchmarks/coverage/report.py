"""From results to the files of the repository: results.jsonl, builds.jsonl, the page, and the table of the command."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.coverage.causes import cause_of
from benchmarks.coverage.pairs import Pair

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.jsonl"
BUILDS = Path(__file__).parent / "builds.jsonl"
PAGE = ROOT / "docs" / "reference" / "coverage.md"
TABLE = ROOT / "src" / "onnxport" / "cli" / "coverage.json"

STATUSES = ("right", "restricted", "refused", "wrong", "unchecked", "torch fails", "not built")
Line = dict[str, Any]


def merge(root: Path) -> None:
    """Take the results of a run into the repository; a new result of a pair replaces the old one."""
    if (root / "results.jsonl").is_file():
        _merge(RESULTS, _lines(root / "results.jsonl"))
    built = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((root / "built").glob("*.json"))]
    _merge(BUILDS, built)


def write(pairs: Sequence[Pair], without: dict[str, str]) -> None:
    """Write the page and the table of `onnxport tasks --models`.

    Args:
        pairs: all pairs of the matrix.
        without: base models that no row serves.
    """
    results, builds = _lines(RESULTS), _lines(BUILDS)
    PAGE.write_text("\n".join(_page(pairs, without, results, builds)) + "\n", encoding="utf-8")
    rows = [
        {"model_type": one["model_type"], "task": one["task"], "status": one["status"],
         "note": "" if one["status"] == "right" else cause_of(one)}
        for one in sorted(results, key=lambda one: (one["model_type"], one["task"]))
    ]  # fmt: skip
    document = {"pairs": len(pairs), "rows": rows}
    TABLE.write_text(json.dumps(document, indent=0) + "\n", encoding="utf-8")


def _lines(file: Path) -> list[Line]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _merge(file: Path, new: Iterable[Line]) -> None:
    lines = {line["name"]: line for line in (*_lines(file), *new)}
    file.write_text("".join(json.dumps(lines[name]) + "\n" for name in sorted(lines)), encoding="utf-8")


def _page(pairs: Sequence[Pair], without: dict[str, str], results: list[Line], builds: list[Line]) -> list[str]:
    ran = [one for one in results if one["status"] not in ("torch fails", "not built")]
    good = sum(one["status"] in ("right", "restricted") for one in ran)
    types = {pair.model_type for pair in pairs}
    by_type = {one["name"].rpartition(".")[0]: one for one in builds}
    made = sum(one["made"] for one in by_type.values())
    seconds = sorted(one["cpu_seconds"] for one in results if one["status"] in ("right", "restricted"))
    lines = [
        "# Architectures that were tried",
        "",
        f"transformers has {len(pairs):,} pairs of a model type and a task that the table of tasks serves, for "
        f"{len(types)} model types. This page is about the {len(results)} pairs that were tried for it: the first "
        "of an order that is random and always the same, and pairs that were chosen because they had failed or are "
        "kinds of their own. It is no statement about the others.",
        "",
        f"- Of {len(ran)} pairs that torch runs, {good} were converted and are right"
        f"{f' ({good / len(ran):.0%})' if ran else ''}; "
        f"{sum(one['status'] == 'restricted' for one in ran)} of them with a fixed size that their inputs vary.",
        f"- Wrong: {sum(one['status'] == 'wrong' for one in ran)}.",
        f"- Tiny checkpoints could be made of {made} of the {len(by_type)} model types that were tried"
        f"{f' ({made / len(by_type):.1%})' if by_type else ''}.",
    ]
    if seconds:
        lines.append(
            f"- CPU time of one conversion: median {statistics.median(seconds):.1f} s, 90th percentile "
            f"{seconds[min(len(seconds) - 1, len(seconds) * 9 // 10)]:.1f} s."
        )
    lines += [
        "",
        "Each checkpoint is random and tiny, with a tokenizer or processor of its class. A script that shares no code "
        "with onnxport's verification runs the graphs and torch on inputs of its own. `benchmarks/coverage/README.md` "
        "has the commands; `results.jsonl` beside it has a line for each pair.",
        "",
        "| status | means |",
        "|---|---|",
        "| right | converted, and equal to torch at the sizes of the check |",
        "| restricted | the same, but a length, batch or image size that the inputs vary is fixed |",
        "| refused | the conversion stopped with an error |",
        "| wrong | converted, and different from torch |",
        "| unchecked | converted, and the check could not run it |",
        "| torch fails | the checkpoint that was built does not run in torch |",
        "| not built | no checkpoint, or no processor that the task needs |",
        "",
        "## By modality",
        "",
        *_counted(results, "modality"),
        "",
        "## By task",
        "",
        *_counted(results, "task"),
        "",
        "## What falls short",
        "",
        "| cause | pairs |",
        "|---|---|",
    ]  # fmt: skip
    short: dict[str, list[str]] = {}
    for one in results:
        if one["status"] != "right":
            short.setdefault(f"{one['status']}: {cause_of(one)}", []).append(f"`{one['name']}`")
    lines += [f"| {cause} | {', '.join(names)} |" for cause, names in sorted(short.items(), key=lambda i: -len(i[1]))]
    failed = sorted({name.rpartition(".")[0] for name in (one["name"] for one in by_type.values() if not one["made"])})
    lines += ["", "No checkpoint could be made of: " + (", ".join(failed) or "none") + ".", "",
              "## Right", "", ", ".join(f"`{one['name']}`" for one in results if one["status"] == "right") + ".", "",
              "## Base models that no row serves", "",
              f"{len(without)} base models take sound, video or several kinds of inputs at once."]  # fmt: skip
    return lines


def _counted(results: list[Line], key: str) -> list[str]:
    used = [status for status in STATUSES if any(one["status"] == status for one in results)]
    lines = [f"| {key} | {' | '.join(used)} |", "|---" * (len(used) + 1) + "|"]
    for value in sorted({one[key] for one in results}):
        counts = Counter(one["status"] for one in results if one[key] == value)
        lines.append(f"| {value} | {' | '.join(str(counts[status] or '') for status in used)} |")
    return lines
