"""Where the results of a batch go: a folder, or a URL of fsspec (`s3://bucket/zoo`)."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from onnxport.batch.records import RECORDS_NAME, Record, append_record, read_records
from onnxport.errors import MissingDependencyError, OutputError
from onnxport.publishing.atomic_rename import exchange, rename_new

MANIFEST = "onnxport.json"
WORK, LOGS = ".work", "logs"


class Place(Protocol):
    """Where folders and records are kept.

    Attributes:
        work: a local folder, on the same file system where the place is local; jobs write there.
    """

    work: Path

    def records(self) -> dict[str, Record]:
        """The last record of every job."""

    def add(self, record: Record) -> None:
        """Keep a record."""

    def is_whole(self, name: str) -> bool:
        """Whether the folder of a job is there."""

    def publish(self, name: str, made: Path) -> None:
        """Move what a job made to its place, in one step or so that the manifest comes last.

        Args:
            name: of the job.
            made: folder whose subfolders are the results: `name`, and `name.TARGET` for targets of their own.
        """

    def write(self, name: str, text: str) -> None:
        """Write a file beside the folders."""


def open_place(output: str, work: Path | None = None) -> Place:
    """The place that `output` names.

    Raises:
        OutputError: it is a file.
        MissingDependencyError: a URL, without fsspec.
    """
    if "://" in output:
        return RemotePlace(output, work or Path(".onnxport-batch"))
    return LocalPlace(Path(output).expanduser())


class LocalPlace:
    """A folder. See `Place`."""

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise OutputError(f"{root} is a file.", hint="Give a folder.")
        self.root = root
        self.work = root / WORK
        self.work.mkdir(parents=True, exist_ok=True)

    def records(self) -> dict[str, Record]:
        return read_records(self.root / RECORDS_NAME)

    def add(self, record: Record) -> None:
        append_record(self.root / RECORDS_NAME, record)

    def is_whole(self, name: str) -> bool:
        return (self.root / name / MANIFEST).is_file()

    def publish(self, name: str, made: Path) -> None:
        # The folder of the job's own name comes last: with it the job is whole.
        for folder in sorted(made.iterdir(), key=lambda one: one.name == name):
            target = self.root / folder.name
            if target.exists() and exchange(folder, target):
                continue
            if target.exists():
                shutil.rmtree(target)
            rename_new(folder, target)
        shutil.rmtree(made, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        part = self.work / name
        part.write_text(text, encoding="utf-8")
        part.replace(self.root / name)


class RemotePlace:
    """A URL. See `Place`; records are kept locally, too, and written as a whole."""

    def __init__(self, url: str, work: Path) -> None:
        try:
            import fsspec
        except ImportError:
            raise MissingDependencyError(f"{url} needs fsspec.", hint='pip install "onnxport[batch]"') from None
        self.root = url.rstrip("/")
        self.work = work
        self.work.mkdir(parents=True, exist_ok=True)
        self._files: Any
        self._files, self._base = fsspec.core.url_to_fs(self.root)
        self._records = self.work / RECORDS_NAME
        with suppress(FileNotFoundError):
            self._records.write_bytes(self._files.cat_file(f"{self._base}/{RECORDS_NAME}"))

    def records(self) -> dict[str, Record]:
        return read_records(self._records)

    def add(self, record: Record) -> None:
        append_record(self._records, record)
        self._files.makedirs(self._base, exist_ok=True)
        self._files.pipe_file(f"{self._base}/{RECORDS_NAME}", self._records.read_bytes())

    def is_whole(self, name: str) -> bool:
        return bool(self._files.exists(f"{self._base}/{name}/{MANIFEST}"))

    def publish(self, name: str, made: Path) -> None:
        for folder in sorted(made.iterdir(), key=lambda one: one.name == name):
            goal = f"{self._base}/{folder.name}"
            # An older manifest must not vouch for new files.
            with suppress(FileNotFoundError):
                self._files.rm_file(f"{goal}/{MANIFEST}")
            files = [file for file in folder.rglob("*") if file.is_file()]
            for file in sorted(files, key=lambda one: one.name == MANIFEST and one.parent == folder):
                target = f"{goal}/{file.relative_to(folder).as_posix()}"
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(file), target)
        shutil.rmtree(made, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        self._files.makedirs(self._base, exist_ok=True)
        self._files.pipe_file(f"{self._base}/{name}", text.encode())
