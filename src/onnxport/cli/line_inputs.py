"""Inputs from a file of lines, of JSON lines, or from stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from onnxport.errors import UsageError

STDIN = "-"
_FILES = (".jsonl", ".ndjson", ".txt")


def is_lines(inputs: Sequence[str]) -> bool:
    """Whether the one input is stdin, or a file of lines."""
    if len(inputs) != 1:
        return False
    return inputs[0] == STDIN or (inputs[0].lower().endswith(_FILES) and Path(inputs[0]).is_file())


def read_lines(source: str) -> Iterator[Any]:
    """The inputs in a file or on stdin, one a line; empty lines are left out.

    Args:
        source: `-` for stdin, or the path of a file.

    Yields:
        A text; or what a line holds that is a JSON object or, in a file of JSON lines, any JSON value.

    Raises:
        UsageError: the file is not UTF-8, or a line of a file of JSON lines is not JSON.
    """
    strict = source.lower().endswith((".jsonl", ".ndjson"))
    try:
        # utf-8-sig: a file that begins with a byte order mark.
        with nullcontext(sys.stdin) if source == STDIN else Path(source).open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if text := line.rstrip("\r\n"):
                    yield _value(text, strict, f"line {number} of {source}")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text.", hint="Give a text file.") from error


def count_lines(source: str) -> int | None:
    """Lines of a file; None for stdin."""
    if source == STDIN:
        return None
    with Path(source).open("rb") as file:
        return sum(1 for line in file if line.strip(b"\r\n"))


def _value(text: str, strict: bool, place: str) -> Any:
    if not strict and not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        if not strict:
            return text
        raise UsageError(f"{place} is not JSON: {error}.", hint='{"text": "I love it."}') from error
