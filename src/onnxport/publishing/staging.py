"""Write beside the destination, then put it in place in one step.

    with stage(destination) as staging:
        ...  # write into staging.path
        staging.publish()

Leaving the block without `publish`, by an exception of any kind or without one, removes all that
was created, missing parents included. A process that is killed leaves a staging folder, which the
next `stage` of that destination removes.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from onnxport.artifact.data_files import data_files
from onnxport.errors import OutputError
from onnxport.publishing.atomic_rename import Plan, exchange, finish_plan, sync_rename, sync_tree, write_plan
from onnxport.publishing.destination import absolute, check_destination, check_file_destination, output_error
from onnxport.publishing.leftovers import aside_path, clean_leftovers, discard, lock_if_possible, make_staging, release


def stage(destination: Path, *, overwrite: bool = False) -> Staging:
    """A staging folder that becomes the folder `destination`. See `check_destination` for what is refused."""
    return Staging(destination, overwrite=overwrite)


def stage_file(destination: Path, *, overwrite: bool = False) -> FileStaging:
    """A staging folder for the graph `destination` and the data files beside it.

    See `check_file_destination` for what is refused.
    """
    return FileStaging(destination, overwrite=overwrite)


class Staging:
    """A folder being written. `path` is it; it exists within the `with` block.

    Entering raises OutputError if the destination cannot be written. An OSError in the block that
    means the same (no space left, read-only, not permitted) becomes an OutputError on leaving.
    """

    def __init__(self, destination: Path, *, overwrite: bool) -> None:
        self.destination = absolute(destination)
        self.overwrite = overwrite
        self.published = False
        self._path: Path | None = None
        self._lock = -1
        self._made: list[Path] = []

    @property
    def taken(self) -> frozenset[str]:
        """Names that no data file may have: none, a folder is exchanged as a whole."""
        return frozenset()

    @property
    def path(self) -> Path:
        """The folder to write into."""
        if self._path is None:
            raise RuntimeError("the staging folder exists only within its `with` block")
        return self._path

    def publish(self, seal: Callable[[], object] | None = None) -> tuple[Path, ...]:
        """Put everything in place; the end of the block then has nothing to remove.

        Args:
            seal: the last step before the rename, when all other files are on the disk: reads and hashes them, and
                writes the manifest. Nothing is changed after it.

        Returns:
            What is in place: the folder, or the files with the graph first.

        Raises:
            OutputError: another process was faster, or the destination cannot be written.
        """
        if self.published:
            raise RuntimeError("already published")
        try:
            sync_tree(self.path)
            if seal is not None:
                seal()
                sync_tree(self.path)
            result = self._publish()
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise OutputError(
                    f"{self.destination} was written by another process in the meantime, and is left as it is.",
                    hint="Choose another destination, or replace it with --overwrite (overwrite=True).",
                ) from error
            if mapped := output_error(self.destination, error):
                raise mapped from error
            raise
        self.published = True
        return result

    def __enter__(self) -> Self:
        try:
            clean_leftovers(self.destination)
            self._check()
            self._make_parents()
            self._path, self._lock = make_staging(self.destination)
        except BaseException as error:
            self._remove()
            if isinstance(error, OSError) and (mapped := output_error(self.destination, error)):
                raise mapped from error
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()
        if isinstance(error, OSError) and (mapped := output_error(self.destination, error)):
            raise mapped from error

    def _check(self) -> None:
        check_destination(self.destination, overwrite=self.overwrite)

    def _publish(self) -> tuple[Path, ...]:
        # Once more: the block may have taken an hour.
        check_destination(self.destination, overwrite=self.overwrite)
        if self.destination.is_dir() and any(self.destination.iterdir()):
            self._replace()
        else:
            # Absent or empty: rename does it in one step, and fails if the folder was filled just now.
            self.path.rename(self.destination)
        sync_rename(self.destination.parent)
        return (self.destination,)

    def _replace(self) -> None:
        """Put the new folder in the place of the old one, which is deleted after that."""
        if exchange(self.path, self.destination):
            shutil.rmtree(self.path, ignore_errors=True)
            return
        # No exchange on this file system: a crash between these two renames leaves the old folder
        # aside, and `clean_leftovers` puts it back. The lock keeps others from doing that now.
        aside = aside_path(self.destination)
        lock = lock_if_possible(self.destination)
        try:
            self.destination.rename(aside)
            self.path.rename(self.destination)
        except BaseException:
            if aside.exists() and not self.destination.exists():
                aside.rename(self.destination)
            raise
        finally:
            release(lock)
        shutil.rmtree(aside, ignore_errors=True)

    def _make_parents(self) -> None:
        missing = [parent for parent in self.destination.parents if not parent.exists()]
        for parent in reversed(missing):
            # Not ours to remove if somebody else made it just now.
            with suppress(FileExistsError):
                parent.mkdir()
                self._made.append(parent)

    def _remove(self) -> None:
        if self._path is not None:
            discard(self._path, self.destination.parent)
            self._path = None
        release(self._lock)
        self._lock = -1
        if not self.published:
            for parent in reversed(self._made):
                # Not empty: somebody else works there, or an interrupted publish was complete.
                with suppress(OSError):
                    parent.rmdir()
        self._made.clear()


class FileStaging(Staging):
    """As `Staging`, for a graph file and its data files.

    The files in `path` go into the destination's folder. One of them must have the destination's name. Data files
    need names that are not `taken`: so the graph that is replaced keeps its own until the new graph is renamed over it.
    """

    @property
    def taken(self) -> frozenset[str]:
        """Names of the data files beside the graph that is replaced."""
        return frozenset(path.name for path in data_files(self.destination))

    def _check(self) -> None:
        check_file_destination(self.destination, overwrite=self.overwrite)

    def _publish(self) -> tuple[Path, ...]:
        self._check()
        parent, graph = self.destination.parent, self.destination.name
        others = sorted(entry.name for entry in self.path.iterdir())
        if graph not in others or not all((self.path / name).is_file() for name in others):
            raise RuntimeError(f"the staging folder must hold files only, and one called {graph}: {others}")
        others.remove(graph)
        # Data files that the new graph does not have belonged to the graph that it replaces.
        replaced = self.overwrite and (parent / graph).exists()
        old = [path.name for path in data_files(parent / graph)] if replaced else []
        plan = Plan((*others, graph), self.overwrite, remove=tuple(name for name in old if name not in others))
        write_plan(self.path, plan)
        finish_plan(self.path, parent, plan)
        return tuple(parent / name for name in (graph, *others))
