"""Numbers, sizes and names as a reader of the report sees them."""

from __future__ import annotations

import math
import re

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
_NUMBER = re.compile(r"\d+")


def number_text(value: float | None) -> str:
    """Two or three digits: "3.2e-07", "0.0125", "12.5", "50,000"; a dash for None."""
    if value is None:
        return DASH
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite"
    if value == 0:
        return "0"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.1e}"


def bytes_text(count: int) -> str:
    """A number of bytes with a unit: "91.0 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} bytes"


def count_text(count: int) -> str:
    """A number of things: "22.7 M", "514"."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return str(count)


def share_text(share: float | None) -> str:
    """A share in percent, never rounded up to 100 %."""
    if share is None or math.isnan(share):
        return DASH
    percent = share * 100
    return "100 %" if share >= 1 else f"{math.floor(percent * 10) / 10:.1f} %"


def sizes_text(sizes: dict[str, int]) -> str:
    """Sizes of a case: "batch 2, sequence 11"."""
    short = ((axis.removesuffix("_size").removesuffix("_length"), size) for axis, size in sizes.items())
    return ", ".join(f"{axis.replace('_', ' ')} {size}" for axis, size in short)


def family(name: str) -> str:
    """A name with its first number left open: tensors of all layers have one family.

    >>> family("past_key_values.11.key")
    'past_key_values.N.key'
    """
    return _NUMBER.sub("N", name, count=1)


def shorten(text: str, most: int) -> str:
    """At most `most` characters; what is left out is in the middle, because ends of names differ."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
