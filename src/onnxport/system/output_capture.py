"""Capture the output of other libraries: banners, progress bars, warnings.

The output is kept, so that an error can show it on request.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_depth = 0


@contextmanager
def quiet(output: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """Send everything that is printed, logged or warned inside the block to a buffer. Blocks can be nested.

    A console that must stay visible has to keep its own stream, taken before the block.

    Args:
        output: the buffer; by default a new one.

    Yields:
        The buffer.
    """
    global _depth
    output = output if output is not None else io.StringIO()
    if _depth:
        yield output
        return
    _depth += 1
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(output), redirect_stderr(output):
            warnings.simplefilter("ignore")
            yield output
    finally:
        logging.disable(before)
        _depth -= 1
