"""Reading and completing an onnxport folder.

A folder's manifest is read once, where the path comes in (`open_folder`), and handed on with the path as a `Folder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxport.artifact.hashes import check_inside, require_unchanged
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest
from onnxport.artifact.manifest_json import from_json, to_json
from onnxport.errors import CheckpointError, FolderError, OutputError, did_you_mean
from onnxport.formats.json_file import read_bytes
from onnxport.system.library_errors import bad_input

_LARGEST_MANIFEST = 2**27  # bytes


@dataclass(frozen=True)
class Folder:
    """A folder that onnxport wrote, whose manifest has been read and is sound."""

    path: Path
    manifest: Manifest

    @property
    def names(self) -> list[str]:
        """Of its graphs."""
        return [component.name for component in self.manifest.components]

    def component(self, name: str) -> Component:
        """The graph of that name.

        Raises:
            FolderError: there is none.
        """
        found = self.manifest.find(name)
        if found is None:
            hint = did_you_mean(name, self.names) or f"It has {', '.join(self.names)}."
            raise FolderError(f"{self.path} has no component {name!r}.", hint=hint)
        return found

    def file(self, component: Component) -> Path:
        """The path of a graph's file."""
        return self.path / component.file


def open_folder(folder: str | Path | Folder) -> Folder:
    """A folder by its path; one that is open already is given back as it is.

    Raises:
        FolderError: as `read_folder`.
    """
    if isinstance(folder, Folder):
        return folder
    path = Path(folder).expanduser()
    return Folder(path, read_folder(path))


def read_folder(path: Path) -> Manifest:
    """The manifest of the folder `path`. Files are not hashed: `check_files` does that.

    Raises:
        FolderError: no folder, no manifest in it, a wrong manifest, or one that names files
            outside of the folder.
    """
    file = path / MANIFEST_NAME
    convert = "Make one with: onnxport convert MODEL OUTPUT"
    if not path.is_dir():
        what = "is a file, not an onnxport folder" if path.exists() else "does not exist"
        raise FolderError(f"{path} {what}.", hint=convert)
    if not file.is_file():
        raise FolderError(f"{path} is not an onnxport folder: it has no {MANIFEST_NAME}.", hint=convert)
    with bad_input(FolderError, f"{file} cannot be read", convert):
        try:
            manifest = from_json(read_bytes(file, _LARGEST_MANIFEST).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise FolderError(f"{file} cannot be read: it is not UTF-8 text.", hint=convert) from error
        except CheckpointError as error:
            raise FolderError(error.message, hint=convert) from error
        except FolderError as error:
            raise FolderError(f"{file}: {error.message}", hint=error.hint) from error
        check_inside(path, manifest)
    return manifest


def write_manifest(root: Path, manifest: Manifest, written: Mapping[str, str] | None = None) -> Manifest:
    """Read and hash all files of the folder `root`, and write `onnxport.json` as the last one.

    Args:
        root: the folder.
        manifest: its `files` are ignored.
        written: path in the folder to sha256, of files that were hashed while or after they were written
            (`WrittenModel.sha256` with the folder of the graph before each name).

    Returns:
        The manifest with `files` set to the sha256 of everything in the folder, as it was read.

    Raises:
        FolderError: there is a link or a special file in the folder.
        OutputError: a file is not as it was written.
        OSError: the folder cannot be read or written.
    """
    complete = dataclasses.replace(manifest, files=require_unchanged(root, written or {}))
    text = to_json(complete)
    (root / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")
    if (root / MANIFEST_NAME).read_bytes() != text.encode():
        raise OutputError(f"{MANIFEST_NAME} is not as it was written.", hint="The disk or the memory may be faulty.")
    return complete


def write_draft(root: Path, manifest: Manifest, files: Mapping[str, str]) -> None:
    """Write an `onnxport.json`, so that the folder can be opened before it is complete.

    Args:
        root: the folder.
        manifest: what is known of it.
        files: sha256 of the files that are complete, by path.

    Raises:
        OSError: it cannot be written.
    """
    draft = dataclasses.replace(manifest, files=dict(files))
    (root / MANIFEST_NAME).write_text(to_json(draft), encoding="utf-8", newline="\n")
