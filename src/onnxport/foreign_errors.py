"""Messages of exceptions that other libraries raise, made short."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an exception's message without its full stop, or the name of its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
