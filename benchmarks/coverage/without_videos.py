"""A processor of transformers without its part for videos, which needs torchvision.

`AutoProcessor` cannot load the whole one where torchvision is missing. So a checkpoint gets a class of its own in a folder
below it: the one of transformers, whose images and texts are prepared as ever, and which has no video processor. The folder of the
checkpoint itself keeps the files of the whole processor, as published checkpoints have them.
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
_CODE = """from types import SimpleNamespace

from transformers import ProcessorMixin, {base}


class Parts(ProcessorMixin):
    def __init__(self, *args, **kwargs):
        kwargs.pop("video_processor", None)
        super().__init__(*(one for one in args if one is not None), **kwargs)


class WithoutVideos({base}, Parts):
    video_processor = SimpleNamespace(font="", merge_size=2, temporal_patch_size=2)

    def __init__(self, *args, **kwargs):
        super().__init__(**(dict(zip(self.get_attributes(), args)) | kwargs | {{"video_processor": None}}))

    @classmethod
    def get_attributes(cls):
        return [name for name in {base}.get_attributes() if name != "video_processor"]


WithoutVideos.register_for_auto_class("AutoProcessor")
"""


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
    sys.modules[_MODULE] = module  # transformers looks for the file of the class when it saves it
    spec.loader.exec_module(module)
    return module.WithoutVideos


def is_without_videos(processor: Any) -> bool:
    """Whether it is of such a class."""
    return type(processor).__name__ == "WithoutVideos"


def save_both(processor: Any, folder: Path) -> None:
    """Write the processor to `folder/without_videos`, and the files of the whole one to the folder itself."""
    own = folder / OWN
    processor.save_pretrained(own)
    base = type(processor).__bases__[0].__name__
    for file in own.glob("*.json"):
        values = json.loads(file.read_text(encoding="utf-8"))
        if "processor_class" in values:
            values |= {"processor_class": base}
            values.pop("auto_map", None)
            (folder / file.name).write_text(json.dumps(values, indent=1), encoding="utf-8")
        else:
            shutil.copy(file, folder)
    for file in own.iterdir():
        if file.suffix not in (".py", ".json") and file.is_file():
            shutil.copy(file, folder)
