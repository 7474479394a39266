"""Numbers in config.json that no model can have, found before anything is built from them.

A million layers are a million Python objects for every step that follows. What a config counts has a part of the
weights each, so the weights say how many there can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError

# Things of which each has tensors of its own, or shares those of another.
_PARTS = re.compile(r"\w*(layers?|blocks?|stages|experts|codebooks|depths?)")
# Things of which each has at least a number in the weights.
_NUMBERS = re.compile(r"\w*(labels|channels|heads?|groups|queries|classes|filters)")
_MOST_PARTS, _MOST_NUMBERS = 10_000, 100_000  # where the weights do not tell
_MOST_LABELS = 1_000_000
_DEEPEST = 20


def check_config(config: dict[str, Any], path: Path, tensors: int | None, weight_bytes: int) -> None:
    """Refuse a config whose numbers the weights cannot hold.

    Args:
        config: config.json.
        path: of it, for the message.
        tensors: in the weight files; None if that is unknown.
        weight_bytes: size of the weight files.

    Raises:
        CheckpointError: names the field and the limit.
    """
    most_parts = max(_MOST_PARTS, tensors or 0)
    most_numbers = max(_MOST_NUMBERS, min(weight_bytes, 2**31))
    for name, value in _numbers(config, 0):
        most = most_parts if _PARTS.fullmatch(name) else most_numbers if _NUMBERS.fullmatch(name) else None
        if most is not None and value > most:
            raise CheckpointError(
                f"{name} is {_shown(value)} in config.json, and the weights can belong to {most:,} at most.",
                hint=f"Repair {path} or copy it again.",
            )
    labels = config.get("id2label")
    if isinstance(labels, dict) and len(labels) > _MOST_LABELS:
        raise CheckpointError(
            f"config.json has {len(labels):,} labels (id2label); at most {_MOST_LABELS:,} are read.",
            hint=f"Repair {path} or copy it again.",
        )


def _numbers(part: Any, depth: int) -> Iterator[tuple[str, int]]:
    """Whole numbers in the config and in configs inside it, with their names; of a list each."""
    if not isinstance(part, dict) or depth > _DEEPEST:
        return
    for name, value in part.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int) and not isinstance(one, bool):
                yield str(name), one
            elif isinstance(one, float) and one > 2**53:
                yield str(name), int(min(one, 1e300))
        yield from _numbers(value, depth + 1)


def _shown(value: int) -> str:
    return f"{value:,}" if value < 10**15 else "a number of more than 15 digits"
