"""JSON files of a checkpoint, with errors that name the file, the line and the column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError


def read_json(path: Path) -> Any:
    """The JSON document in `path`.

    Raises:
        CheckpointError: not JSON; names the file, the line and the column.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        what = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
    except RecursionError:
        what = "it is nested too deeply"
    raise CheckpointError(f"{path.name} is not valid JSON ({what}).", hint=f"Repair {path} or copy it again.")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CheckpointError: not JSON, or JSON but no object.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path.name} holds a {type(document).__name__}, not a JSON object.",
            hint=f"Repair {path} or copy it again.",
        )
    return document
