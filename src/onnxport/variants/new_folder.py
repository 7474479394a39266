"""A folder made from another one: the same folder with graphs added to it, or a further one.

    with new_folder(folder, [graph.file for graph in new]) as made:
        ...                 # write these files into made.root
        made.take_rest()    # what else the folder holds
        ...                 # check them there
        made.publish(with_components(folder.manifest, components))

What is published is whole: a block that is left before `publish` leaves everything as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxport.artifact.card import CARD_NAME, replace_card
from onnxport.artifact.data_files import data_files, graph_bytes
from onnxport.artifact.folder import Folder, write_manifest
from onnxport.artifact.graph_findings import find_in_folder, refuse
from onnxport.artifact.hashes import check_files, hash_files, walk_files
from onnxport.artifact.javascript_settings import CONFIG, write_javascript_settings
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest
from onnxport.errors import FolderError
from onnxport.graph.stats import file_operators
from onnxport.publishing.destination import check_free_space
from onnxport.publishing.staging import Staging, stage
from onnxport.serialization.weights_file import weights_path
from onnxport.specs import Verification
from onnxport.system.memory import memory_limit


@dataclass(frozen=True)
class NewGraph:
    """A graph that is made from one of a folder.

    Attributes:
        base: the graph that it is made from.
        ending: of its name and of its file's: "q4", "optimized".
    """

    base: Component
    ending: str

    @property
    def name(self) -> str:
        return f"{self.base.name}_{self.ending}"

    @property
    def file(self) -> str:
        """Its path in the folder, "/" separated."""
        file = Path(self.base.file)
        return file.with_name(f"{file.stem}_{self.ending}.onnx").as_posix()

    def component(self, root: Path, verification: Verification, **fields: Any) -> Component:
        """Its record, once it lies in the folder `root`; `fields` of `Component` replace what the base has.

        Raises:
            VerificationError: a weight is not one of the graph that it was made from.
        """
        from onnxport.verification.ledger.derived import prove_derived

        target = root / self.file
        own: dict[str, Any] = {
            "name": self.name,
            "file": self.file,
            "verification": verification,
            "operators": file_operators(target),
            "size_bytes": graph_bytes(target),
            "data_files": tuple(path.relative_to(root).as_posix() for path in data_files(target)),
            "weights_checksum": None,
            "raised_weights": (),
            "calibration": None,
            "loss": None,
            "derived_from": self.base.name,
            "ledger": prove_derived([root / self.base.file], target),
        }
        return replace(self.base, **(own | fields))


def graphs_from(folder: Folder, bases: Sequence[Component], ending: str) -> list[NewGraph]:
    """A new graph for each of `bases`.

    Raises:
        FolderError: there is none, or a graph of the folder that was made from something else has the name.
    """
    if not bases:
        raise FolderError(f"{folder.path} has no float32 graph to start from.", hint="Convert the model again.")
    new = [NewGraph(base, ending) for base in bases]
    for graph in new:
        other = folder.manifest.find(graph.name)
        if other is not None and other.derived_from != graph.base.name:
            raise FolderError(
                f"{folder.path} has a graph {graph.name!r} that was not made from {graph.base.name!r}.",
                hint="Convert that part of the model into a folder of its own: --signature for a SavedModel.",
            )
    return new


@dataclass(frozen=True)
class NewFolder:
    """A folder in the making.

    Attributes:
        source: the folder that it is made from.
        staging: where it is made.
        own: paths of its own files, which are not taken from the source; "/" separated.
        link: link what is taken instead of copying it.
        digests: path to sha256 of files that must be the same when the folder is published.
    """

    source: Folder
    staging: Staging
    own: frozenset[str]
    link: bool
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """Where it is made."""
        return self.staging.path

    def take_rest(self) -> None:
        """Take over the source's other files.

        Only after the graphs are written: onnx refuses to read weights once they have a second name. What was written
        until now must not change any more.

        Raises:
            OSError: a file cannot be linked or copied.
        """
        self.hash_written()
        for relative in walk_files(self.source.path):
            if relative not in self.own and not (self.root / relative).exists():
                _take(self.source.path / relative, self.root / relative, link=self.link)
                self.digests[relative] = self.source.manifest.files[relative]

    def replaced(self, relative: str) -> None:
        """Say that a file that was taken has been written anew."""
        self.digests.pop(relative, None)

    def hash_written(self) -> None:
        """Hash what was written since the last call. From now on a change of it is an error.

        Raises:
            OSError: a file cannot be read.
        """
        self.digests.update(hash_files(self.root, self.digests))

    def publish(self, manifest: Manifest) -> None:
        """Write the card, read every file again, write the manifest, and put the folder in place.

        Raises:
            OutputError: a file is not as it was written, or the destination cannot be written.
        """
        if write_javascript_settings(self.root):
            self.replaced(CONFIG)
        self.replaced(CARD_NAME)
        replace_card(self.root, manifest, self.staging.destination.resolve().name)
        self.hash_written()
        self.staging.publish(lambda: write_manifest(self.root, manifest, self.digests))


@contextmanager
def new_folder(
    source: Folder, own: Collection[str], output: Path | None = None, *, new_bytes: int = 0
) -> Iterator[NewFolder]:
    """Begin a folder beside its destination.

    Args:
        source: is checked first: every file must be as onnxport wrote it, and every graph sound.
        own: paths that will be written, "/" separated; of a graph the files of its weights belong to it. What the
            source has of that name is not taken.
        output: the new folder, which must not exist or be empty; None replaces the source.
        new_bytes: about the size of the files that will be written.

    Raises:
        FolderError: the source is damaged.
        OutputError: the destination cannot be written, or there is no space.
    """
    copied = 0 if output is None else _bytes_of(source, own)
    check_free_space(output or source.path, new_bytes, copied)
    check_files(source.path, source.manifest)
    refuse(source.path, find_in_folder(source))
    stale = {MANIFEST_NAME, *own}
    for graph in (source.path / path for path in own if path.endswith(".onnx")):
        beside = (*data_files(graph), weights_path(graph))
        stale.update(path.relative_to(source.path).as_posix() for path in beside)
    with memory_limit(), stage(output or source.path, overwrite=output is None) as staging:
        for path in own:
            (staging.path / path).parent.mkdir(parents=True, exist_ok=True)
        yield NewFolder(source, staging, frozenset(stale), link=output is None)


def with_components(manifest: Manifest, made: Sequence[Component]) -> Manifest:
    """The manifest with these graphs; those of the same names are replaced."""
    names = {component.name for component in made}
    kept = (component for component in manifest.components if component.name not in names)
    return replace(manifest, components=(*kept, *made))


def _bytes_of(source: Folder, own: Collection[str]) -> int:
    """Size of the files that are copied from the source."""
    copied = (source.path / path for path in source.manifest.files if path not in own)
    return sum(path.stat().st_size for path in copied if path.is_file())


def _take(source: Path, target: Path, *, link: bool) -> None:
    """A hard link where the file system has them, so that weights are not copied; else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copyfile(source, target)
