"""Parse sizes on the command line: 2GB, 500 MB, 1.5GiB, 4096."""

from __future__ import annotations

import re
from decimal import Decimal

from onnxport.errors import UsageError

# Decimal units, as for disks, and binary units, as for memory.
_UNITS = {"": 1, "b": 1} | {
    prefix + suffix: base ** (power + 1)
    for power, prefix in enumerate("kmgt")
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_LARGEST = 2**63 - 1  # a file's size in bytes


def parse_size(text: str, option: str) -> int:
    """The number of bytes, rounded down.

    kB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are powers of 1024; a number alone is
    bytes. Case does not matter, and the B may be left out.

    Args:
        text: the value of the option.
        option: its name ("--shard-size"), for the error.

    Raises:
        UsageError: not a size, less than one byte, or more than 2**63 - 1.
    """
    hint = "Write a number and a unit, such as 2GB, 500MB or 1.5GiB."
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    if match is None or unit is None:
        raise UsageError(f"{option} {text!r} is not a size.", hint=hint)
    # Very long numbers are slow to convert, and too large in any unit.
    size = int(Decimal(match[1]) * unit) if len(match[1]) <= 40 else -1
    if not 1 <= size <= _LARGEST:
        what = "too small: it is less than one byte" if size == 0 else "too large"
        raise UsageError(f"{option} {text!r} is {what}.", hint=hint)
    return size
