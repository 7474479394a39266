"""The files beside the graph: configs, tokenizer, processor, labels.

A file that the checkpoint has is copied as it is, so that nothing is lost in a round trip through
the loader's version; what it lacks is written by the pipeline's own components.
"""

from __future__ import annotations

import filecmp
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.artifact.embedding_server import additions
from onnxport.artifact.javascript_settings import CONFIG, without_javascript_settings
from onnxport.checkpoints.links import require_inside
from onnxport.errors import OnnxPortError
from onnxport.formats.json_file import read_object, read_object_if_present

_GENERATION = "generation_config.json"
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
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
    *_PROCESSOR_FILES,
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_CONFIG_PART = "config"
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
        replaced: what the user chose in place of the checkpoint's; see `copied_files`. The pipeline's parts write
            the files that are not copied.
        generation: goes into generation_config.json, in the place of what is there.

    Raises:
        UntrustedCheckpointError: one of the files is a link out of the checkpoint.
    """
    if origin is not None:
        for name in copied_files(origin, replaced):
            (folder / name).parent.mkdir(exist_ok=True)
            require_inside(origin / name, origin)
            shutil.copyfile(origin / name, folder / name)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _save_components(pipeline, Path(scratch))
        for file in sorted(Path(scratch).rglob("*.*")):
            target = folder / file.relative_to(scratch)
            if file.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, target)
    if generation:
        settings = folder / _GENERATION
        said = read_object_if_present(settings)
        settings.write_text(json.dumps({**said, **generation}, indent=2) + "\n", encoding="utf-8")


def processor_files(pipeline: Any, origin: Path | None, replaced: frozenset[str] = frozenset()) -> dict[str, str]:
    """The texts of the configs of processors that are no copies, as `write_assets` writes them.

    Args:
        pipeline, origin, replaced: as for `write_assets`.
    """
    copied = copied_files(origin, replaced) if origin is not None else []
    parts = [part for name in _COMPONENTS[1:] if (part := getattr(pipeline, name, None)) is not None]
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            part.save_pretrained(scratch)
        files = [Path(scratch, name) for name in _PROCESSOR_FILES if name not in copied]
        return {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}


def copied_files(origin: Path, replaced: frozenset[str] = frozenset()) -> list[str]:
    """Names of the files of a checkpoint that belong into the folder, relative and "/" separated.

    Args:
        origin: the checkpoint's folder.
        replaced: what the user chose in place of the checkpoint's. "config": not its config.json; a component
            ("tokenizer", "image_processor", ...): none of its files.
    """
    if replaced - {_CONFIG_PART}:
        return []
    names = [name for name in _FILES if (origin / name).is_file()]
    modules = sorted(origin.glob("[0-9]*_*/config.json"))  # sentence-transformers' pooling and dense
    names = [name for name in names if name != "config.json" or _CONFIG_PART not in replaced]
    return [*names, *(path.relative_to(origin).as_posix() for path in modules)]


def changed_copies(
    origin: Path,
    folder: Path,
    replaced: frozenset[str],
    generation: Mapping[str, Any],
    rewritten: Mapping[str, str] | None = None,
) -> list[str]:
    """The files that should be copies of the checkpoint's and are not, each with what is wrong with it.

    Args:
        origin: the checkpoint's folder.
        folder: what `write_assets` wrote into.
        replaced, generation: as for `write_assets`; these settings may differ in generation_config.json.
        rewritten: name -> the text of a file that is no copy.

    Raises:
        OSError: a file of the checkpoint cannot be read.
    """
    wrong = []
    for name in copied_files(origin, replaced):
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif rewritten is not None and name in rewritten:
            if (folder / name).read_bytes() != rewritten[name].encode():
                wrong.append(f"{name} is not as it was written")
        elif not filecmp.cmp(origin / name, folder / name, shallow=False) and not (
            (name == _GENERATION and _has_settings(origin / name, folder / name, generation))
            or (name == CONFIG and _same_config(origin / name, folder / name))
        ):
            wrong.append(f"{name} is not that of the checkpoint")
    return wrong


def _has_settings(original: Path, written: Path, generation: Mapping[str, Any]) -> bool:
    """Whether a file of settings is `original` with these settings in it."""
    try:
        return read_object(written) == {**read_object(original), **generation}
    except OnnxPortError:
        return False


def _same_config(original: Path, written: Path) -> bool:
    """Whether a config.json differs from `original` only in what it says to other run times."""
    try:
        own, found = (without_javascript_settings(read_object(file)) for file in (original, written))
    except OnnxPortError:
        return False
    return found in (own, {**own, **additions(own)})


def _save_components(pipeline: Any, folder: Path) -> None:
    parts = [getattr(pipeline.model, "config", None), *(getattr(pipeline, name, None) for name in _COMPONENTS)]
    for part in parts:
        if part is not None and hasattr(part, "save_pretrained"):
            part.save_pretrained(folder)
    settings = getattr(pipeline.model, "generation_config", None)
    if settings is not None:
        # Not save_pretrained: it refuses settings that contradict each other, which many checkpoints have.
        settings.to_json_file(folder / _GENERATION)
