"""The table of tasks as text, from results.json; benchmarks and documentation have the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"
_HEAD = (
    "task", "model", "answer", "result", "start, s", "transformers", "memory, MiB", "transformers", "a call, ms",
    "transformers",
)  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """A table in Markdown, with a line for each row.

    Args:
        results: content of results.json.
    """
    lines = [f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD)]
    lines += [f"| {' | '.join(_cells(row))} |" for row in results["rows"]]
    return "\n".join([*lines, "", summary(results)])


def summary(results: dict[str, Any]) -> str:
    """What the rows have in common, in sentences."""
    rows = results["rows"]
    base = [row for row in rows if not row["onnxport"]["beyond_base"]]
    equal = sum(row["problem"] is None for row in rows)
    starts, memories = (_ratios(base, name) for name in ("start_s", "resident_mib"))
    return (
        f"{equal} of {len(rows)} rows give the result of transformers; {len(base)} run on the base install. "
        f"Of those, the first result is there in {_range(starts)} of transformers' time, "
        f"with {_range(memories)} of its memory."
    )


def documented() -> str:
    """The table and how it was measured, for the documentation."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    about = results["about"]
    measured = (
        f"Measured with onnxruntime {about['onnxruntime']}, transformers {about['transformers']}, torch "
        f"{about['torch']} and {about['threads']} thread on {about['processor']}, while other work ran. Rounds: "
        f"{about['rounds']}, median; each arm in a process of its own, alternating; further calls in each: "
        f"{about['calls']}."
    )
    return f"{table(results)}\n\n{measured}"


def _cells(row: dict[str, Any]) -> list[str]:
    ours, theirs = row["onnxport"], row["transformers"]
    install = "base install" if not ours["beyond_base"] else "needs " + ", ".join(_frameworks(ours["beyond_base"]))
    measured = [
        f"{arm[name]:.{digits}f}"
        for name, digits in (("start_s", 2), ("resident_mib", 0), ("call_ms", 1))
        for arm in (ours, theirs)
    ]
    return [row["task"], row["model"], f"{install}; {theirs['how']}", _result(row), *measured]


def _frameworks(packages: list[str]) -> list[str]:
    return [name for name in ("torch", "transformers") if name in packages] or packages[:2]


def _result(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"different: {row['problem']}".replace("|", "/")
    parts = [f"numbers {row['error']:.0e}"] if row["numbers"] and row["error"] else []
    parts += [f"{row['pixels']:.2%} of the pixels"] if row["pixels"] else []
    return "equal" + (f", {' and '.join(parts)} apart" if parts else "")


def _ratios(rows: list[dict[str, Any]], name: str) -> list[float]:
    return sorted(row["onnxport"][name] / row["transformers"][name] for row in rows)


def _range(shares: list[float]) -> str:
    return f"{shares[0]:.0%} to {shares[-1]:.0%} (median {shares[len(shares) // 2]:.0%})" if shares else "no part"
