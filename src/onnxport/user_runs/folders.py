"""What answers for a folder: `onnxport.pipeline`, and the classes of `onnxport.runtime`, which need no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxport.artifact.folder import Folder
from onnxport.tasks import Task
from onnxport.user_runs.answers import plain
from onnxport.user_runs.arrays import ArrayModel, generation_of
from onnxport.user_runs.inputs import Call
from onnxport.user_runs.parts import load_part
from onnxport.user_runs.sources import ask_pipeline

Ask = Callable[[Call], Any]


def through_pipeline(folder: Folder, task: Task) -> Ask:
    """Through `onnxport.pipeline`, which needs no framework for most tasks.

    Raises:
        Exception: what a user would see if the folder cannot be loaded.
    """
    from onnxport.pipelines.factory import pipeline

    loaded = pipeline(task.name, model=folder)
    return lambda call: ask_pipeline(loaded, task, call)


def through_transformers(folder: Folder, task: Task) -> Ask:
    """Through transformers' pipeline for the task, around the folder's graphs.

    Raises:
        Exception: what transformers raises for files that it cannot load.
    """
    from onnxport.pipelines.onnx.pipeline import open_with_transformers

    loaded = open_with_transformers(folder, task.name)
    return lambda call: ask_pipeline(loaded, task, call)


def through_arrays(folder: Folder, task: Task, parts: Mapping[str, Any]) -> Ask:
    """Through `onnxport.runtime`, with tokenizer and processors of the folder.

    Args:
        parts: names of the parts that the source has.

    Raises:
        Exception: what a user would see if the folder cannot be loaded.
    """
    names = ("tokenizer", "image_processor", "feature_extractor")
    loaded = {name: load_part(folder.path, name) if name in parts else None for name in names}
    config = load_part(folder.path, "config")
    labels = dict(config.id2label or {})
    generate = _generation(folder, task, config)
    if generate is not None:
        model = ArrayModel(task, loaded, dict, labels, generate)
        return lambda call: plain(model.ask(call))
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(folder)
    known = {spec.name for spec in session.inputs}

    def run(arrays: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return session.run({name: value for name, value in arrays.items() if name in known})

    return lambda call: plain(ArrayModel(task, loaded, run, labels).ask(call))


def _generation(folder: Folder, task: Task, config: Any) -> Callable[[Any], str] | None:
    """Greedy search of the run time; None for folders that do not generate."""
    from onnxport.runtime.sequence_generation import SequenceGenerator, TextToTextGenerator, is_encoder_decoder
    from onnxport.runtime.text_generation import TextGenerator

    generator: Any
    if task.kind == "decoder":
        generator = TextGenerator(folder)
    elif not is_encoder_decoder(folder.names):
        return None
    else:
        generator = (TextToTextGenerator if task.kind == "text" else SequenceGenerator)(folder)
    _, settings = generation_of(config, task)

    def generate(given: Any) -> str:
        made = generator(given, **settings)
        text: str = made if isinstance(made, str) else made[0]
        return text

    return generate
