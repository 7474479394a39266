"""Shorten messages of exceptions that other libraries raise."""

from __future__ import annotations

import re

# Keras writes this line before the message of a layer.
_FRAME = "Exception encountered when calling "
# Terminal colours, and TensorFlow's internal locations.
_NOISE = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\}\s*|\s*\[Op:\w+\]( name:)?")
# Characters. Longer messages end in links and advice about the library's own use.
_LONG = 300


def first_line(error: BaseException | None, empty: str | None = None) -> str:
    r"""Return the first line of an exception's message without its full stop; a long line is cut after a sentence.

    All messages of other libraries are shortened here, so that they fit into onnxport's own sentences.

    Args:
        error: the exception.
        empty: result for an exception without a message; by default the name of its class.

    Example:
        >>> first_line(ValueError("Shapes differ.\nStack trace: ..."))
        'Shapes differ'
    """
    lines = [line.strip() for line in _NOISE.sub("", str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith(_FRAME):
        del lines[0]
    if not lines:
        return type(error).__name__ if empty is None else empty
    line = lines[0]
    if len(line) > _LONG:
        end = line.rfind(". ", 0, _LONG)
        if end < 0:
            return f"{line[:_LONG].rstrip()} ..."
        line = line[:end]
    return line.rstrip(".")
