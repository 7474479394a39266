"""JSON files of a checkpoint or a folder, with errors that name the file, the line and the column.

Size and depth are limited before anything is made of the text: a file that is sparse on disk can have any size, and
what other code does with a document that is nested deeply ends in a RecursionError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError

# Bytes. Objects in memory take up to 20 times the text. The largest tokenizers (256,000 tokens with merges) are 35 MB,
# the index of 100,000 tensors is 10 MB.
LARGEST = 2**28
DEEPEST = 100


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """The JSON document in `path`.

    Args:
        path: the file.
        largest: most bytes that it may have.

    Raises:
        CheckpointError: too large, nested too deeply, or not JSON; names the file, the line and the column.
    """
    try:
        return parse_json(read_bytes(path, largest))
    except json.JSONDecodeError as error:
        what = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
    except RecursionError:
        what = "it is nested too deeply"
    except ValueError as error:
        what = str(error).partition(";")[0]
    raise CheckpointError(f"{path.name} is not valid JSON ({what}).", hint=f"Repair {path} or copy it again.")


def read_object(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CheckpointError: too large, not JSON, or JSON but no object.
    """
    document = read_json(path, largest)
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path.name} holds a {type(document).__name__}, not a JSON object.",
            hint=f"Repair {path} or copy it again.",
        )
    return document


def read_object_if_present(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; {} where there is no such file.

    Raises:
        CheckpointError: as `read_object`.
    """
    return read_object(path) if path.is_file() else {}


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a file of at most `largest` bytes.

    Raises:
        CheckpointError: it is larger, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.", hint="Copy it again.") from error
    if len(content) > largest:
        raise CheckpointError(
            f"{path.name} has {path.stat().st_size:,} bytes; a file of this kind has at most {largest:,}.",
            hint=f"Check what {path} is, or copy it again.",
        )
    return content


def parse_json(content: bytes) -> Any:
    """The document in UTF-8 text.

    Raises:
        ValueError: not JSON (JSONDecodeError), not UTF-8 (UnicodeDecodeError), a number of thousands of digits, or
            nested more than `DEEPEST` deep.
        RecursionError: nested much deeper.
    """
    document = json.loads(content.decode("utf-8-sig"))
    level = [document]
    for _ in range(DEEPEST):
        level = [item for container in level for item in _items(container) if isinstance(item, dict | list)]
        if not level:
            return document
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _items(container: Any) -> Iterator[Any]:
    if isinstance(container, dict):
        yield from container.values()
    elif isinstance(container, list):
        yield from container
