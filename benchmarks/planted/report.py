"""Tables of what was found."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from benchmarks.planted.fault import Result

_ORDER = ("MISSED", "FALSE ALARM", "found later", "broken", "timeout", "restricted", "no effect", "caught", "sound")


def print_report(results: Sequence[Result]) -> None:
    """All results, the worst first, and what they sum up to."""
    faults = [result for result in results if result.stage != "none"]
    sound = [result for result in results if result.stage == "none"]
    if faults:
        print("| fault | stage | outcome | by | error / tolerance | CPU s |")
        print("|---|---|---|---|---|---|")
        for result in sorted(faults, key=lambda r: (_ORDER.index(r.outcome), r.fault)):
            said = _line(result.effect or result.message)
            by = f"{result.by}: {said}" if result.by else said
            print(
                f"| {result.fault} | {result.stage} | {result.outcome} | {by} | {_ratio(result)} | "
                f"{result.seconds:.1f} |"
            )
    if sound:
        print("\n| sound model | outcome | error / tolerance | CPU s | reference and verify |")
        print("|---|---|---|---|---|")
        for result in sorted(sound, key=lambda r: (_ORDER.index(r.outcome), r.fault)):
            outcome = result.outcome if not result.message else f"{result.outcome}: {_line(result.message)}"
            print(f"| {result.fault} | {outcome} | {_ratio(result)} | {result.seconds:.1f} | {_share(result)} |")
    print()
    for title, group in (("faults", faults), ("sound conversions", sound)):
        if group:
            counts = Counter(result.outcome for result in group)
            print(f"{len(group)} {title}: " + ", ".join(f"{counts[o]} {o}" for o in _ORDER if counts[o]))
    if faults:
        spent = [result.seconds for result in faults]
        print(f"{statistics.median(spent):.1f} CPU s for a fault (median), {sum(spent):.0f} in all")
    ratios = [result.ratio for result in sound if result.ratio is not None]
    if ratios:
        print(f"largest error / tolerance of a sound model: {max(ratios):.2g}, median {statistics.median(ratios):.2g}")


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:160]


def _ratio(result: Result) -> str:
    return "" if result.ratio is None else f"{result.ratio:.2g}"


def _share(result: Result) -> str:
    spent = result.steps.get("reference", 0) + result.steps.get("verify", 0)
    total = sum(result.steps.values())
    return f"{spent:.1f} s, {100 * spent / total:.0f} %" if total else ""
