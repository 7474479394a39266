"""Messages of exceptions that other libraries raise, made short."""

from __future__ import annotations

import re

# Keras puts it before what a layer raised.
_FRAME = "Exception encountered when calling "
# Colours of a terminal, and where in itself TensorFlow was.
_NOISE = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\}\s*|\s*\[Op:\w+\]( name:)?")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message without its full stop, or the name of its class."""
    lines = [line.strip() for line in _NOISE.sub("", str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith(_FRAME):
        del lines[0]
    return lines[0].rstrip(".") if lines else type(error).__name__
