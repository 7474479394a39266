"""Keep third parties quiet: banners, progress bars, registration and future warnings.

What they said is kept, so that an error can show it on request.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_depth = 0


@contextmanager
def quiet(said: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """Everything printed, logged or warned inside goes to the yielded buffer, `said` if it is given. Nests.

    A console that shall stay visible must hold its own stream, taken before.
    """
    global _depth
    said = said if said is not None else io.StringIO()
    if _depth:
        yield said
        return
    _depth += 1
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        logging.disable(before)
        _depth -= 1
