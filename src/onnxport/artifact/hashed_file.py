"""A file whose sha256 is known when it has been written, without reading it again."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

# Smaller blocks are hashed sooner than they are handed to a thread.
_THREAD_FROM_BYTES = 2**18


class HashedFile:
    """A new file; within the `with` block `write` appends to it.

    A file of that name is replaced, not written over: it may be a hard link to something dear.
    While the system takes a large block, a thread hashes it: the hash takes longer than the write.
    Leaving the block by an exception leaves the file as it is then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0  # bytes
        self._sha256 = hashlib.sha256()
        self._thread: ThreadPoolExecutor | None = None
        path.unlink(missing_ok=True)
        self._file = path.open("xb")

    @property
    def sha256(self) -> str:
        """Of what was written so far, as 64 hex digits."""
        return self._sha256.hexdigest()

    def write(self, block: memoryview | bytes) -> None:
        """Append bytes; `block` may be changed afterwards.

        Raises:
            OSError: the file cannot be written.
        """
        if len(block) < _THREAD_FROM_BYTES:
            self._sha256.update(block)
            self._file.write(block)
        else:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="onnxport-sha256")
            hashing = self._thread.submit(self._sha256.update, block)
            try:
                self._file.write(block)
            finally:
                hashing.result()
        self.size += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._thread is not None:
                self._thread.shutdown()
        finally:
            self._file.close()
