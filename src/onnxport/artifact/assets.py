"""The files beside the graph: configs, tokenizer, processor, labels.

A file that the checkpoint has is copied as it is, so that nothing is lost in a round trip through
the loader's version; what it lacks is written by the pipeline's own components.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.checkpoints.links import require_inside
from onnxport.formats.json_file import read_object

_GENERATION = "generation_config.json"
# What a user of the folder may need. Names, not patterns: nothing else of a checkpoint is published.
_FILES = (
    "config.json",
    _GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_COMPONENTS = ("tokenizer", "image_processor", "feature_extractor", "processor")


def write_assets(
    pipeline: Any,
    origin: Path | None,
    folder: Path,
    replaced: frozenset[str] = frozenset(),
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Put the files beside the graph into `folder`.

    Args:
        pipeline: the pipeline.
        origin: the checkpoint's folder, or None for a live model.
        replaced: components that the user chose in place of the checkpoint's ("tokenizer"): none of
            its files are copied then, the components write their own.
        generation: goes into generation_config.json, in the place of what is there.

    Raises:
        UntrustedCheckpointError: one of the files is a link out of the checkpoint.
    """
    if origin is not None and not replaced:
        for name in _FILES:
            if (origin / name).is_file():
                _copy(origin / name, origin, folder / name)
        for config in sorted(origin.glob("[0-9]*_*/config.json")):  # sentence-transformers' pooling and dense
            (folder / config.parent.name).mkdir(exist_ok=True)
            _copy(config, origin, folder / config.parent.name / config.name)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _save_components(pipeline, Path(scratch))
        for file in sorted(Path(scratch).rglob("*.*")):
            target = folder / file.relative_to(scratch)
            if file.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, target)
    if generation:
        settings = folder / _GENERATION
        said = read_object(settings) if settings.is_file() else {}
        settings.write_text(json.dumps({**said, **generation}, indent=2) + "\n", encoding="utf-8")


def _copy(file: Path, origin: Path, target: Path) -> None:
    require_inside(file, origin)
    shutil.copyfile(file, target)


def _save_components(pipeline: Any, folder: Path) -> None:
    parts = [getattr(pipeline.model, "config", None), *(getattr(pipeline, name, None) for name in _COMPONENTS)]
    for part in parts:
        if part is not None and hasattr(part, "save_pretrained"):
            part.save_pretrained(folder)
    settings = getattr(pipeline.model, "generation_config", None)
    if settings is not None:
        # Not save_pretrained: it refuses settings that contradict each other, which many checkpoints have.
        settings.to_json_file(folder / _GENERATION)
