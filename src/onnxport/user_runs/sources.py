"""What answers for the source: its pipeline, or a TensorFlow class between tokenizer and labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.tasks import Task
from onnxport.user_runs.answers import plain
from onnxport.user_runs.arrays import ArrayModel, generation_of
from onnxport.user_runs.inputs import Call
from onnxport.user_runs.margins import Margins, recorded_margins

if TYPE_CHECKING:
    from onnxport.loading.model_to_export import ModelToExport

# Called with a call; gives the answer as a plain value, and whether a choice in it was a near tie.
Ask = Callable[[Call], tuple[Any, bool]]


def ask_pipeline(pipeline: Any, task: Task, call: Call) -> Any:
    """The answer of a pipeline as a plain value; of feature-extraction all outputs by name, as `onnxport run` gives."""
    arguments, keywords = copy.deepcopy((call.arguments, call.keywords))  # pipelines take them apart
    if hasattr(pipeline, "outputs"):  # a pipeline of onnxport.runtime
        return plain(pipeline.outputs(*arguments, **keywords))
    if task.name == "feature-extraction":
        outputs = pipeline.forward(pipeline.preprocess(*arguments, **keywords))
        return plain({name: value for name, value in dict(outputs).items() if hasattr(value, "shape")})
    return plain(pipeline(*arguments, **keywords))


def source_of(to_export: ModelToExport) -> Ask | None:
    """How the source is asked; None if it has no tokenizer or processor to prepare inputs with."""
    pipeline, task = to_export.pipeline, to_export.task
    if to_export.source.framework == "tf":
        return _tensorflow(to_export)
    from onnxport.loading.bare import BarePipeline

    if isinstance(pipeline, BarePipeline):
        return None

    def ask(call: Call) -> tuple[Any, bool]:
        with recorded_margins(pipeline) as margins:
            answer = ask_pipeline(pipeline, task, call)
        return answer, margins.near_tie

    return ask


@contextmanager
def undisturbed(to_export: ModelToExport) -> Iterator[None]:
    """Within the block the source can run; after it, it is as it was, and so is the random state."""
    with ExitStack() as stack:
        stack.enter_context(to_export.source.weights_kept())
        if to_export.source.framework != "tf":
            import torch

            from onnxport.sources.pytorch.model_state import state_kept

            stack.enter_context(state_kept(to_export.pipeline.model))
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
        yield


def _tensorflow(to_export: ModelToExport) -> Ask | None:
    pipeline, task = to_export.pipeline, to_export.task
    source: Any = to_export.source
    parts = {name: getattr(pipeline, name, None) for name in ("tokenizer", "image_processor", "feature_extractor")}
    needed = {"image": "image_processor", "audio": "feature_extractor", "image+texts": "image_processor"}
    if parts[needed.get(task.kind, "tokenizer")] is None:
        return None
    ties = Margins()
    generate = _generation(pipeline, task, ties) if task.generates and pipeline.model.can_generate() else None
    accepted = source.accepts()

    def run(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        known = {name: value for name, value in arrays.items() if not accepted or name in accepted}
        outputs: Mapping[str, np.ndarray] = source.run(known)
        if task.decision in ("label", "token") and "logits" in outputs:
            ties.add(outputs["logits"])
        return outputs

    model = ArrayModel(task, parts, run, dict(pipeline.model.config.id2label or {}), generate)

    def ask(call: Call) -> tuple[Any, bool]:
        ties.near_tie = False
        return plain(model.ask(call)), ties.near_tie

    return ask


def _generation(pipeline: Any, task: Task, ties: Margins) -> Callable[[Any], str]:
    """Greedy search of a TF class; `ties` gets the scores of every step."""
    import tensorflow as tf

    model, tokenizer = pipeline.model, pipeline.tokenizer
    prefix, settings = generation_of(model.config, task)

    def generate(given: Any) -> str:
        arrays = tokenizer([prefix + given], return_tensors="np") if isinstance(given, str) else given
        names = [name for name in arrays if name != "token_type_ids"]
        tensors = {name: tf.constant(arrays[name]) for name in names}
        made = model.generate(**tensors, **settings, return_dict_in_generate=True, output_scores=True)
        for scores in made.scores:
            ties.add(np.asarray(scores))
        tokens = made.sequences[0]
        if task.kind == "decoder":
            tokens = tokens[tensors["input_ids"].shape[1] :]
        text: str = tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    return generate
