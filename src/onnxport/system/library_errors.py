"""Messages of exceptions that other libraries raise, made short."""

from __future__ import annotations

import re

# Keras puts it before what a layer raised.
_FRAME = "Exception encountered when calling "
# Colours of a terminal, and where in itself TensorFlow was.
_NOISE = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\}\s*|\s*\[Op:\w+\]( name:)?")
# Characters; what follows are links and advice about the library's own use.
_LONG = 300


def first_line(error: BaseException | None, empty: str | None = None) -> str:
    """The first line of an exception's message, without its full stop. Of a long line the first sentences.

    The only place that shortens messages of other libraries; what it gives fits into a sentence of ours.

    Args:
        empty: what an exception without a message gives; None: the name of its class.

    Example:
        >>> first_line(ValueError("Shapes differ.\\nStack trace: ..."))
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
