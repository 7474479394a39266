"""The chart of a benchmark, as an SVG file: latency against length, a panel for each batch, a line for each arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from onnxport.bench.measure import Timing

_WIDTH, _HEIGHT = 360, 240  # of a panel in pixels
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 40, 16, 44  # around its plot
_LEGEND = 22  # a line of the legend
# Okabe and Ito's colours, which people with colour blindness can tell apart: https://jfly.uni-koeln.de/color/
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STYLE = """
svg { background: #fff; color: #1c2330; font: 13px system-ui, sans-serif; }
text { fill: currentColor; } .soft { fill: #5a6475; } .grid { stroke: #d9dee7; }
@media (prefers-color-scheme: dark) {
  svg { background: #141922; color: #e6eaf1; } .soft { fill: #a2acbd; } .grid { stroke: #343c4a; } }
"""


def latency_chart(timings: Sequence[Timing], title: str) -> str:
    """The chart; time and length on logarithmic axes.

    Args:
        timings: at least one.
        title: what was measured.
    """
    panels = list(dict.fromkeys((timing.label, timing.batch) for timing in timings))
    arms = list(dict.fromkeys(timing.arm for timing in timings))
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    head = 34 + _LEGEND * len(arms)
    width, height = max(columns * _WIDTH, 420), head + rows * _HEIGHT + 8
    parts = [f'<text x="12" y="24" font-size="16" font-weight="600">{escape(title)}</text>']
    for number, arm in enumerate(arms):
        y = 44 + _LEGEND * number
        parts.append(
            f'<circle cx="20" cy="{y - 4}" r="5" fill="{_colour(number)}"/><text x="34" y="{y}">{escape(arm)}</text>'
        )
    low, high = _decades([timing.p50 for timing in timings] + [timing.p90 for timing in timings])
    lengths = sorted({timing.length for timing in timings})
    for index, (label, batch) in enumerate(panels):
        x, y = index % columns * _WIDTH, head + index // columns * _HEIGHT
        chosen = [timing for timing in timings if (timing.label, timing.batch) == (label, batch)]
        name = f"{label}, batch {batch}" if label else f"batch {batch}"
        parts.append(f'<g transform="translate({x} {y})">{_panel(name, chosen, arms, lengths, low, high)}</g>')
    best = min(timings, key=lambda timing: timing.p50)
    summary = f"{len(arms)} arms; the shortest median is {best.p50 * 1e3:.3g} ms ({best.arm})"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}: {escape(summary)}"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _panel(
    name: str, timings: Sequence[Timing], arms: Sequence[str], lengths: Sequence[int], low: int, high: int
) -> str:
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def across(length: int) -> float:
        first, last = math.log(max(lengths[0], 1)), math.log(max(lengths[-1], 1))
        return _LEFT + (wide / 2 if first == last else 12 + (wide - 24) * (math.log(length) - first) / (last - first))

    def up(seconds: float) -> float:
        return _TOP + tall * (high - math.log10(seconds)) / (high - low)

    parts = [f'<text x="{_LEFT}" y="{_TOP - 12}" font-weight="600">{escape(name)}</text>']
    for exponent in range(low, high + 1):
        y = up(10.0**exponent)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_time(exponent)}</text>')
    for length in lengths if lengths[-1] else ():
        place = f'x="{across(length):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle"'
        parts.append(f'<text class="soft" {place}>{length}</text>')
    if lengths[-1]:
        middle = _LEFT + wide / 2
        parts.append(f'<text class="soft" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">length</text>')
    for number, arm in enumerate(arms):
        line = sorted((timing for timing in timings if timing.arm == arm), key=lambda timing: timing.length)
        points = " ".join(f"{across(max(t.length, 1)):.1f},{up(t.p50):.1f}" for t in line)
        colour = _colour(number)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for t in line:
            x, text = across(max(t.length, 1)), f"{arm}, length {t.length}: {t.p50 * 1e3:.3g} ms, p90 {t.p90 * 1e3:.3g}"
            y, top = up(t.p50), up(t.p90)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{top:.1f}" stroke="{colour}"/>')
            dot = f'cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"'
            parts.append(f"<circle {dot}><title>{escape(text)}</title></circle>")
    return "".join(parts)


def _decades(seconds: Sequence[float]) -> tuple[int, int]:
    """Whole exponents around all values."""
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    return low, max(high, low + 1)


def _time(exponent: int) -> str:
    if exponent >= 0:
        return f"{10**exponent} s"
    return f"{10 ** (exponent + 3)} ms" if exponent >= -3 else f"{10 ** (exponent + 6):g} µs"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
