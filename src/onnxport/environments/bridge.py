"""How an environment gets the code of onnxport: the very code that calls, and nothing beside it.

onnxport is not installed there. A folder that holds nothing but a link to the running package, called `onnxport`,
is put on the path of the process: so caller and worker are always of the same version, and none of the caller's
other packages can be imported.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def bridge() -> Iterator[Path]:
    """A temporary folder to put on the path of a process: in it is `onnxport`, a link, or a copy where links fail."""
    package = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="onnxport-bridge-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / package.name
        try:
            target.symlink_to(package, target_is_directory=True)
        except (OSError, NotImplementedError):  # Windows without the right to link
            shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)
