"""`onnx/model.weights.json`: where every weight of a graph with data files lies, and its checksum.

One line a weight, so that two conversions can be compared with `diff`. Equal conversions give equal
bytes; nothing in it depends on the machine or the place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxport.artifact.manifest import WeightsChecksum
from onnxport.errors import FolderError
from onnxport.serialization.checksums import ALGORITHM
from onnxport.serialization.written_model import WeightRecord, WrittenModel

WEIGHTS_SUFFIX = ".weights.json"

# Of the fields of WeightRecord.
_TYPES: dict[str, Any] = {
    "name": str,
    "dtype": str,
    "shape": list,
    "file": str,
    "offset": int,
    "length": int,
    "checksum": str,
    "source": str | None,
}
_HINT = "Restore the file from where the folder came from, or convert again with `onnxport convert`."


def weights_path(graph: Path) -> Path:
    """The file for the graph file `graph`, which need not exist: `model.weights.json` for `model.onnx`."""
    return graph.with_name(graph.stem + WEIGHTS_SUFFIX)


def write_weights(graph: Path, written: WrittenModel, root: Path) -> WeightsChecksum | None:
    """Write the file beside `graph`.

    Args:
        graph: what `write_model` wrote.
        written: what it returned.
        root: the onnxport folder that `graph` is in.

    Returns:
        What the manifest's component says of it; None for a graph without data files, which needs no
        such file: there is none.

    Raises:
        OSError: it cannot be written.
    """
    if len(written.files) < 2:
        return None
    path = weights_path(graph)
    path.write_text(weights_text(written.weights), encoding="utf-8", newline="\n")
    size = sum(record.length for record in written.weights)
    return WeightsChecksum(ALGORITHM, len(written.weights), size, path.relative_to(root).as_posix())


def weights_text(weights: Iterable[WeightRecord]) -> str:
    """The content of the file: JSON, ASCII."""
    lines = [json.dumps({name: getattr(record, name) for name in _TYPES}) for record in weights]
    return f'{{"algorithm": {json.dumps(ALGORITHM)}, "weights": [\n' + ",\n".join(lines) + "\n]}\n"


def read_weights(path: Path) -> tuple[WeightRecord, ...]:
    """The records in the file `path`; `written.damaged` compares them with the data files.

    Raises:
        FolderError: there is no such file, or it is not what `write_weights` writes.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise FolderError(f"{path} cannot be read: {reason}.", hint=_HINT) from error
    if not isinstance(data, dict) or not isinstance(data.get("weights"), list):
        raise FolderError(f"{path} is not a list of weights.", hint=_HINT)
    if data.get("algorithm") != ALGORITHM:
        raise FolderError(
            f"{path} has checksums of the kind {data.get('algorithm')!r}; this onnxport knows {ALGORITHM!r}.",
            hint="The folder was written by another onnxport: pip install --upgrade onnxport",
        )
    return tuple(_record(entry, index, path) for index, entry in enumerate(data["weights"]))


def _record(entry: Any, index: int, path: Path) -> WeightRecord:
    where = f"{path}: the weight number {index}"
    if not isinstance(entry, dict) or set(entry) != set(_TYPES):
        raise FolderError(f"{where} must have exactly the fields {', '.join(_TYPES)}.", hint=_HINT)
    for name, kind in _TYPES.items():
        value = entry[name]
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if wrong or (name in ("offset", "length") and value < 0):
            raise FolderError(f"{where} has a wrong {name}: {json.dumps(value)[:60]}.", hint=_HINT)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in entry["shape"]):
        raise FolderError(f"{where} has a wrong shape: {json.dumps(entry['shape'])[:60]}.", hint=_HINT)
    # Beside the graph: a name with parts could lead out of the folder.
    if entry["file"] in ("", ".", "..") or any(sign in entry["file"] for sign in "/\\:\0"):
        raise FolderError(f"{where} names the file {entry['file']!r}, which is not beside the graph.", hint=_HINT)
    return WeightRecord(**{**entry, "shape": tuple(entry["shape"])})
