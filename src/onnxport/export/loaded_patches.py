"""Apply transformers' patches for export only to models that are loaded.

Upstream (transformers 5.23): `transformers.exporters.utils.apply_patches` imports the modules of all 20 architectures
that it has a patch for, whichever model is exported. That took two seconds of the first export of a process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MODELS = "transformers.models."


@contextmanager
def loaded_patches() -> Iterator[None]:
    """Leave out the patches of modules that nothing has imported, while transformers exports."""
    try:
        import transformers.exporters.exporter_onnx  # noqa: F401, registers the patches
        from transformers.exporters import utils
    except ImportError:
        yield
        return
    registered = getattr(utils, "_PATCHES", None)
    if not isinstance(registered, dict):  # another version of transformers is only slower
        yield
        return
    before = {backend: list(patches) for backend, patches in registered.items()}
    for backend, patches in before.items():
        registered[backend] = [patch for patch in patches if _is_loaded(patch[0])]
    try:
        yield
    finally:
        registered.update(before)


def _is_loaded(path: str) -> bool:
    """Whether the object at a dotted path can be one that the model uses."""
    return not path.startswith(_MODELS) or ".".join(path.split(".")[:4]) in sys.modules
