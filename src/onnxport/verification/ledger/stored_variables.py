"""The variables of a TensorFlow model against the file that it was loaded from, by their values.

Keras and TensorFlow have no names that hold on both sides, so a variable is found in the file by its bytes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import VerificationError

if TYPE_CHECKING:
    from pathlib import Path

    from onnxport.checkpoints.tensorflow_files import TensorflowFiles
    from onnxport.verification.ledger.variable import Variable

_KERAS_WEIGHTS = "model.weights.h5"


@dataclass(frozen=True)
class _Stored:
    name: str
    shape: tuple[int, ...]
    sha256: str


def stored_names(variables: Sequence[Variable], files: TensorflowFiles | None) -> dict[str, str]:
    """Name of a variable -> its tensor in the file, of those that have the same bytes.

    Args:
        variables: of the model, as they were loaded.
        files: where they were loaded from.

    Raises:
        VerificationError: a variable has other values than the file, which has a tensor of its shape for no variable.
    """
    stored = list(_read(files)) if files is not None else []
    if not stored:
        return {}
    by_digest = {one.sha256: one for one in stored}
    found = {one.name: by_digest[one.sha256].name for one in variables if one.sha256 in by_digest}
    held = {one.sha256 for one in variables}
    free = {one.shape: one.name for one in stored if one.sha256 not in held}
    for one in variables:
        shape = tuple(int(size) for size in one.variable.shape)
        if one.name not in found and np.prod(shape) > 1 and shape in free:
            raise VerificationError(
                f"The variable {one.name} {list(shape)} of the loaded model is not in its file, which has "
                f"{free[shape]} of this shape.",
                hint="Report this model.",
            )
    return found


def _read(files: TensorflowFiles) -> Iterator[_Stored]:
    """What is in a file; nothing of kinds that are not known here."""
    if files.kind == "saved_model":
        yield from _of_saved_model(files.path)
        return
    if files.kind not in ("keras", "h5"):
        return
    import h5py

    if files.kind == "h5":
        with h5py.File(files.path, "r") as file:
            yield from _of_hdf5(file, files.path.name)
        return
    with zipfile.ZipFile(files.path) as archive, archive.open(_KERAS_WEIGHTS) as inside:
        with h5py.File(inside, "r") as file:
            yield from _of_hdf5(file, _KERAS_WEIGHTS)


def _of_hdf5(file: Any, name: str) -> Iterator[_Stored]:
    import h5py

    datasets: list[tuple[str, Any]] = []

    def visit(path: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset) and not path.split("/")[0].startswith("optimizer"):
            datasets.append((path, entry))

    file.visititems(visit)
    for path, entry in datasets:
        yield _stored(f"{name}: {path}", np.asarray(entry[()]))


def _of_saved_model(path: Path) -> Iterator[_Stored]:
    from onnxport.sources.tensorflow.source import tensorflow

    prefix = path / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        return
    reader = tensorflow().train.load_checkpoint(str(prefix))
    for name in sorted(reader.get_variable_to_shape_map()):
        if name.startswith("_CHECKPOINTABLE") or "/.OPTIMIZER_SLOT/" in name or name.startswith("optimizer/"):
            continue
        with suppress(Exception):  # strings and types that numpy lacks
            yield _stored(f"variables: {name.removesuffix('/.ATTRIBUTES/VARIABLE_VALUE')}", reader.get_tensor(name))


def _stored(name: str, values: Any) -> _Stored:
    array = np.ascontiguousarray(values)
    return _Stored(name, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
