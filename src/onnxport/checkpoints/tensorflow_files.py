"""Keras files and SavedModels, inspected before TensorFlow is imported.

Standard library only. Nothing of the model is executed here. What loading it would execute is found and reported.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.checkpoints.links import require_links_inside
from onnxport.checkpoints.saved_model import reaching_operators
from onnxport.errors import CheckpointError, UntrustedCheckpointError
from onnxport.formats.json_file import LARGEST, parse_json, read_json
from onnxport.system.library_errors import first_line

_HDF5 = b"\x89HDF\r\n\x1a\n"
# An archive of zeros is a thousandth of its content. Below the first number of bytes it does no harm.
_LEAST_BOMB, _MOST_RATIO = 2**28, 100
_KERAS_PARTS = ("config.json", "metadata.json", "model.weights.h5")


@dataclass(frozen=True)
class TensorflowFiles:
    """A model of TensorFlow that is no checkpoint of transformers.

    Attributes:
        path: the file or folder.
        kind: "keras" (.keras), "h5" (a whole model in an old .h5 file), "keras_hub" (a preset folder) or
            "saved_model".
        libraries: modules that must be imported before it is loaded, because they register its classes.
        total_bytes: size of its files.
    """

    path: Path
    kind: str
    libraries: tuple[str, ...] = ()
    total_bytes: int = 0


def kind_of(path: str | Path) -> str | None:
    """The kind of TensorFlow model at `path` (`TensorflowFiles.kind`), judged by file names alone; or None."""
    path = Path(path).expanduser()
    if path.is_file():
        return {".keras": "keras", ".h5": "h5", ".hdf5": "h5"}.get(path.suffix.lower())
    if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
        return "saved_model"
    if (path / "metadata.json").is_file() and (path / "config.json").is_file():
        return "keras_hub"
    return None


def find_tensorflow_files(path: str | Path, *, trust_remote_code: bool = False) -> TensorflowFiles | None:
    """The TensorFlow model at `path`, checked; None where there is none.

    Raises:
        CheckpointError: it is, but broken.
        UntrustedCheckpointError: loading it would run code, and that was not allowed.
    """
    path = Path(path).expanduser()
    match kind_of(path):
        case "keras":
            return _keras(path)
        case "h5":
            return _h5(path)
        case "saved_model":
            return _saved_model(path, trust_remote_code)
        case "keras_hub":
            return _preset(path)
    return None


def _keras(path: Path) -> TensorflowFiles:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            missing = [name for name in _KERAS_PARTS if name not in names]
            if missing:
                raise _fault(path, f"is a .keras file without {', '.join(missing)}")
            _require_sizes(path, archive)
            broken = archive.testzip()
            if broken is not None:
                raise _fault(path, f"is damaged: {broken} in it does not have the checksum that was written")
            config = parse_json(archive.read("config.json"))
    except CheckpointError:
        raise
    except Exception as error:  # zipfile has errors of a dozen types: encrypted, of an unknown method, cut off ...
        raise _fault(path, f"is no .keras file, or cut off ({first_line(error)})") from error
    return TensorflowFiles(path, "keras", _libraries(config), path.stat().st_size)


def _require_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that is small on disk and huge unpacked; Keras does not compress weights."""
    sizes = {one.filename: one.file_size for one in archive.infolist()}
    total = sum(sizes.values())
    if total > _LEAST_BOMB and total > _MOST_RATIO * path.stat().st_size:
        raise _fault(path, f"is {path.stat().st_size:,} bytes and {total:,} unpacked, as no model is")
    for name in ("config.json", "metadata.json"):
        if sizes[name] > LARGEST:
            raise _fault(path, f"has a {name} of {sizes[name]:,} bytes")


def _h5(path: Path) -> TensorflowFiles:
    with path.open("rb") as file:
        start = file.read(len(_HDF5))
    if start != _HDF5:
        raise _fault(path, "is no HDF5 file")
    if (path.parent / "config.json").is_file() and path.name == "tf_model.h5":
        raise CheckpointError(
            f"{path} holds only the weights of a checkpoint.",
            hint=f"Give the folder: {path.parent}",
        )
    return TensorflowFiles(path, "h5", (), path.stat().st_size)


def _preset(path: Path) -> TensorflowFiles | None:
    """A folder of KerasHub's `save_to_preset`."""
    try:
        config, metadata = read_json(path / "config.json"), read_json(path / "metadata.json")
    except CheckpointError:
        return None
    if not isinstance(config, dict) or not isinstance(metadata, dict) or "keras_version" not in metadata:
        return None
    require_links_inside(path)
    if not any(path.glob("*.weights.h5")):
        raise _fault(path, "is a folder of KerasHub without weights (model.weights.h5)")
    total = sum(file.stat().st_size for file in path.rglob("*.h5"))
    return TensorflowFiles(path, "keras_hub", ("keras_hub",), total)


def _saved_model(path: Path, trusted: bool) -> TensorflowFiles:
    require_links_inside(path)
    graph = path / "saved_model.pb"
    if graph.is_file():
        content = graph.read_bytes()
        if not content:
            raise _fault(path, "is a SavedModel whose saved_model.pb is empty")
        if not trusted:
            reject_reaching_operators(path, content)
    weights = path / "variables"
    if weights.is_dir() and any(weights.iterdir()) and not (weights / "variables.index").is_file():
        raise _fault(path, "is a SavedModel whose variables/variables.index is missing")
    return TensorflowFiles(path, "saved_model", (), sum(f.stat().st_size for f in path.rglob("*") if f.is_file()))


def reject_reaching_operators(folder: Path, content: bytes) -> None:
    """Refuse a SavedModel that does more than computing.

    Args:
        folder: the SavedModel.
        content: of its saved_model.pb.

    Raises:
        UntrustedCheckpointError: it has operators beside those of tensorflow_operators.txt, or assets outside of it.
        CheckpointError: the content is damaged.
    """
    try:
        found = reaching_operators(content)
    except ValueError as error:
        raise _fault(folder, f"cannot be loaded as a SavedModel: saved_model.pb is damaged ({error})") from error
    if found:
        shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise UntrustedCheckpointError(
            f"{folder} has operators that are not known to only compute: {shown}. They may read or write files, open "
            "connections or run code. Nothing was run.",
            hint="If you trust where it comes from, add `--trust-remote-code`.",
        )


def _libraries(config: Any) -> tuple[str, ...]:
    """Libraries whose classes a configuration names; only those that are known are ever imported."""
    names = re.findall(r'"registered_name": "(\w+)>', json.dumps(config))
    return ("keras_hub",) if "keras_hub" in names or "keras_nlp" in names else ()


def _fault(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} {what}.", hint="Copy or export it again.")
