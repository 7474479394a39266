"""Tiny checkpoints and the folders that they become, each converted once in a run of pytest.

    def test_something(converted):
        tiny = converted("bert-text-classification")
        assert tiny.conversion.passed

The fixture is in conftest.py. Tests of the conversion itself call `onnxport.convert`; this is for all that comes after.
A test that changes what a conversion does asks for its folder first: others get the same one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport import convert
from onnxport.artifact.results import Conversion
from tests.once import Once


@dataclass(frozen=True)
class Converted:
    """A checkpoint and its folder, both for reading: other tests have the same.

    Attributes:
        source: the checkpoint.
        folder: what was converted from it.
        conversion: what `onnxport.convert` gave.
    """

    source: Path
    folder: Path
    conversion: Conversion

    def copy(self, target: Path) -> Path:
        """The folder in `target`, to be changed."""
        return Path(shutil.copytree(self.folder, target))


class Conversions:
    """Called with the name of a tiny checkpoint; see `__call__`."""

    def __init__(self, once: Once) -> None:
        self._once = once

    def __call__(self, name: str, checkpoint: Mapping[str, Any] | None = None, **options: Any) -> Converted:
        """The checkpoint `name` of one of the tables in tests/tiny*.py, and the folder that it becomes.

        Args:
            checkpoint: arguments of the function that saves it; `tokenizer` is the name of a function in
                tests/tiny_tokenizers.py.
            options: arguments of `onnxport.convert`. Without `pipeline_name` it is the task of the row, where it has
                one.
        """
        changes = dict(checkpoint or {})
        given = ";".join(f"{key}={value}" for part in (changes, options) for key, value in sorted(part.items()))
        words = re.sub(r"[^\w=-]+", "_", f"{name} {given}")[:80].strip("_")
        key = f"{words}-{hashlib.sha256(f'{name} {changes} {options}'.encode()).hexdigest()[:8]}"

        def make(root: Path) -> Conversion:
            source = save(name, root / "m", **changes)
            return convert(None, source, root / "out", **(_defaults(name, source) | options))

        root, conversion = self._once(key, make)
        return Converted(root / "m", root / "out", conversion)


def save(name: str, folder: Path, **changes: Any) -> Path:
    """Write the checkpoint `name`, which is in one of the tables."""
    from tests import tiny, tiny_decoders, tiny_encoder_decoders, tiny_images_in_text, tiny_tokenizers

    if name in tiny.TINY:
        return tiny.save(name, folder, **changes)
    if name in tiny_decoders.DECODERS:
        if kind := changes.pop("tokenizer", None):
            changes["tokenizer"] = getattr(tiny_tokenizers, kind)()
        return tiny_decoders.save_decoder(name, folder, **changes)
    if name in tiny_encoder_decoders.TABLE:
        return tiny_encoder_decoders.save_encoder_decoder(name, folder, **changes)
    return tiny_images_in_text.save_image_text(name, folder, **changes)


def _defaults(name: str, source: Path) -> dict[str, Any]:
    from tests.tiny import TINY
    from tests.tiny_images_in_text import OWN_PROCESSOR, processor_of

    if name in OWN_PROCESSOR:
        return {"processor": processor_of(name, source)}
    if name in TINY and not name.startswith("sentence"):
        return {"pipeline_name": TINY[name].task}
    return {}
