"""A processor of transformers without its part for videos, which needs torchvision.

`AutoProcessor` cannot load the whole one where torchvision is missing. So a checkpoint has a folder below it with a
class of its own: that of transformers, whose images and texts are prepared as ever, and that has no video processor.
The checkpoint itself has the files that published ones have.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

VIDEO, OWN = "video_processor", "without_videos"
_MODULE = "processing_without_videos"
_CODE = '''import inspect
from types import SimpleNamespace

import transformers


class Parts(transformers.ProcessorMixin):
    def __init__(self, *args, **kwargs):
        kwargs.pop("video_processor", None)
        super().__init__(*(one for one in args if one is not None), **kwargs)


class {base}(transformers.{base}, Parts):
    video_processor = SimpleNamespace(font="", merge_size=2, temporal_patch_size=2)

    def __init__(self, *args, **kwargs):
        super().__init__(**(dict(zip(self.get_attributes(), args)) | kwargs | {{"video_processor": None}}))

    @classmethod
    def get_attributes(cls):
        return [name for name in transformers.{base}.get_attributes() if name != "video_processor"]

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor"):
        """What is saved names the class of transformers, and no code."""


# Arguments by these names are saved.
{base}.__init__.__signature__ = inspect.signature(transformers.{base}.__init__)
'''


def without_videos(kind: Any, folder: Path) -> Any:
    """The class for a class of transformers.

    Args:
        kind: a processor class with a `video_processor`.
        folder: gets the file of the class; exists.
    """
    file = folder / f"{_MODULE}.py"
    file.write_text(_CODE.format(base=kind.__name__), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # transformers reads the types of its methods there
    spec.loader.exec_module(module)
    return getattr(module, kind.__name__)


def is_without_videos(processor: Any) -> bool:
    """Whether it is of such a class."""
    return type(processor).__module__ == _MODULE


def save_both(processor: Any, folder: Path) -> None:
    """Write the files of the whole processor to a folder, and one that loads without videos to `OWN` in it."""
    processor.save_pretrained(folder)
    own = folder / OWN
    shutil.copytree(folder, own, ignore=lambda _, names: {one for one in names if "safetensors" in one})
    kind = type(processor).__name__
    (own / f"{_MODULE}.py").write_text(_CODE.format(base=kind), encoding="utf-8")
    file = own / "processor_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | {"auto_map": {"AutoProcessor": f"{_MODULE}.{kind}"}}
    file.write_text(json.dumps(values), encoding="utf-8")
