"""Exceptions of other libraries: what they say in one line, and which of them tell of bad input."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from onnxport.errors import OnnxPortError

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


@contextmanager
def bad_input(kind: type[OnnxPortError], what: str, hint: str) -> Iterator[None]:
    """Within it, whatever fails is the fault of what is read: the error is `kind`, and never a bug.

    Around code that reads files of somebody else, here or in a library. Rust code panics with a BaseException.

    Args:
        kind: the class of the error.
        what: the beginning of its message: "model.keras cannot be loaded".
        hint: what to do.

    Raises:
        OnnxPortError: as it was raised inside, or `kind` for any other exception.
        KeyboardInterrupt: as it was raised inside.
    """
    try:
        yield
    except (OnnxPortError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        name = type(error).__name__
        said = first_line(error)
        raise kind(f"{what}: {name if said == name else f'{name}: {said}'}.", hint=hint) from error
