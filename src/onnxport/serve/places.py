"""Which requests are still wanted: a worker stops the work of a client that went away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context

Place = tuple[int, int]


class Places:
    """Numbers in memory that the server and its workers share: one for each request that runs or waits.

    Only the server takes places; workers look. A place is taken again by later requests, so it holds the number of its
    request.

    Args:
        count: of places.
    """

    def __init__(self, count: int) -> None:
        self._requests = get_context("spawn").RawArray("q", count)
        self._free = list(range(count))
        self._last = 0

    @contextmanager
    def taken(self) -> Iterator[Place | None]:
        """A place for a request, until the block ends; None if all are taken, and then the work cannot be stopped."""
        if not self._free:
            yield None
            return
        place, self._last = self._free.pop(), self._last + 1
        self._requests[place] = self._last
        try:
            yield place, self._last
        finally:
            self._requests[place] = 0
            self._free.append(place)

    def wanted(self, place: Place | None) -> bool:
        """Whether somebody waits for the request that took a place."""
        return place is None or self._requests[place[0]] == place[1]
