"""Load a staged folder as a user loads it, ask it what the source was asked, and compare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import FolderRun
from onnxport.system.library_errors import first_line
from onnxport.user_runs.answers import difference
from onnxport.user_runs.components import describe_part, first_difference
from onnxport.user_runs.record import MESSAGES, SourceAnswers, ask


def run_folder(root: Path, source: SourceAnswers) -> FolderRun:
    """Compare the folder `root`, which has a manifest, with the source."""
    folder = open_folder(root)
    differences: list[str] = []
    near_ties = 0
    if source.answered:
        pipeline, told = _load(folder, source)
        if pipeline is None:
            differences.append(told)
        else:
            for answered in source.answered:
                found = _compare(pipeline, source, answered)
                if found is not None and answered.near_tie:
                    near_ties += 1
                elif found is not None:
                    differences.append(found)
    differences += _parts_differ(folder, source)
    if source.prompt is not None:
        differences += _prompt_differs(folder, source)
    return FolderRun(
        "onnxport.pipeline" if source.answered else "files", len(source.answered), not differences, near_ties,
        tuple(differences),
    )  # fmt: skip


def _load(folder: Folder, source: SourceAnswers) -> tuple[Any, str]:
    from onnxport.pipelines.factory import pipeline

    try:
        return pipeline(source.task.name, model=folder), ""
    except Exception as error:  # whatever a user would see is the finding
        return None, f"onnxport.pipeline({source.task.name!r}, FOLDER) fails: {first_line(error)}"


def _compare(pipeline: Any, source: SourceAnswers, answered: Any) -> str | None:
    try:
        found = ask(pipeline, source.task, answered.call)
    except Exception as error:
        return f"{answered.call.shown}: the folder fails: {first_line(error)}"
    told = difference(answered.answer, found)
    return None if told is None else f"{answered.call.shown}: {told}"


def _parts_differ(folder: Folder, source: SourceAnswers) -> Iterator[str]:
    """The folder's configs, tokenizer and processors, loaded again, against the source's."""
    for name, expected in source.parts.items():
        try:
            part = _load_part(folder.path, name)
        except Exception as error:
            yield f"{name} of the folder cannot be loaded: {first_line(error)}"
            continue
        if part is None:
            yield f"the folder has no {name}"
            continue
        told = first_difference(expected, describe_part(name, part), name)
        if told is not None:
            yield told


def _load_part(folder: Path, name: str) -> Any:
    from onnxport.loading import components

    if name == "config":
        from onnxport.pipelines.onnx.model import folder_config

        return folder_config(folder)
    if name == "generation_config":
        from transformers import GenerationConfig

        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return getattr(components, f"_load_{name}")(folder, False)


def _prompt_differs(folder: Folder, source: SourceAnswers) -> Iterator[str]:
    from onnxport.runtime.prompts.chat_template import render

    try:
        found = render(folder.path, MESSAGES)
    except Exception as error:
        yield f"a conversation: the folder fails: {first_line(error)}"
        return
    if found != source.prompt:
        yield f"a conversation: the prompt is {found!r} instead of {source.prompt!r}"
