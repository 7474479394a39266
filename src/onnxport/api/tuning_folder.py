"""The folder in which `optimize` makes its candidates: a copy of the user's as it was converted.

Every candidate is published there as a whole. So what is left of a tuning that was stopped is a folder with some of
them, and the next one goes on from these.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from onnxport._version import __version__
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import Component
from onnxport.errors import FolderError
from onnxport.publishing.leftovers import kept_beside
from onnxport.variants.new_folder import new_folder


@contextmanager
def tuning_folder(folder: Folder, precisions: Sequence[str]) -> Iterator[Path]:
    """Yield a folder with the converted graphs of `folder`, and the candidates that were made of them before.

    Args:
        folder: of a conversion.
        precisions: the candidates. A tuning with others begins anew.

    Raises:
        FolderError: `folder` is damaged.
        OutputError: there is no space.
    """
    with kept_beside(folder.path, _key(folder, precisions)) as kept:
        work = kept / folder.path.name
        if not _is_whole(work):
            shutil.rmtree(work, ignore_errors=True)
            begun = kept / "begun"
            shutil.rmtree(begun, ignore_errors=True)
            _copy_converted(folder, begun / work.name)
            (begun / work.name).rename(work)
        yield work


def files_of(component: Component) -> list[str]:
    """The files of a graph, relative to the folder."""
    checksums = [component.weights_checksum.file] if component.weights_checksum is not None else []
    return [component.file, *component.data_files, *checksums]


def _key(folder: Folder, precisions: Sequence[str]) -> str:
    """Changes with the converted graphs, with the candidates, and with what makes candidates of them."""
    own = {path: folder.manifest.files[path] for one in folder.manifest.converted() for path in files_of(one)}
    text = json.dumps([own, sorted(precisions), __version__, version("onnxruntime")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_whole(work: Path) -> bool:
    try:
        check_files(work, open_folder(work).manifest)
    except FolderError:
        return False
    return True


def _copy_converted(folder: Folder, copy: Path) -> None:
    """Copy the folder as it was converted; onnx reads no weights from files with a second name."""
    shutil.copytree(folder.path, copy)
    derived = [path for one in folder.manifest.components if one.derived_from for path in files_of(one)]
    kept = {path for one in folder.manifest.converted() for path in files_of(one)}
    with new_folder(open_folder(copy), [path for path in derived if path not in kept]) as made:
        made.take_rest()
        made.publish(replace(folder.manifest, components=folder.manifest.converted(), tuning=None))
