"""Sizes as people write them on the command line: 2GB, 500 MB, 1.5GiB, 4096."""

from __future__ import annotations

import re
from decimal import Decimal

from onnxport.errors import UsageError

# Decimal, as disks and the hub count, and binary, as memory is counted.
_UNITS = {"": 1, "b": 1} | {
    prefix + suffix: base ** (power + 1)
    for power, prefix in enumerate("kmgt")
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_LARGEST = 2**63 - 1  # a file's size in bytes


def parse_size(text: str, option: str) -> int:
    """The number of bytes that `text` means, a fraction of a byte left out.

    kB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are powers of 1024; a number alone is
    bytes. Upper and lower case are the same, the B may be left out.

    Args:
        text: what the user gave.
        option: where ("--shard-size"), for the message.

    Raises:
        UsageError: not a size, below one byte, or more than any file can have.
    """
    hint = "Write a number and a unit, such as 2GB, 500MB or 1.5GiB."
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    if match is None or unit is None:
        raise UsageError(f"{option} {text!r} is not a size.", hint=hint)
    # Digits without end would cost time; that many are too many in any unit.
    size = int(Decimal(match[1]) * unit) if len(match[1]) <= 40 else -1
    if not 1 <= size <= _LARGEST:
        what = "too small: it is less than one byte" if size == 0 else "too large"
        raise UsageError(f"{option} {text!r} is {what}.", hint=hint)
    return size
