"""Choose the input generator of a pipeline, by the kind of its task and the model's main input."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from onnxport.dummy_inputs.audio import AudioInputGenerator
from onnxport.dummy_inputs.base import InputGenerator
from onnxport.dummy_inputs.clip import ClipInputGenerator
from onnxport.dummy_inputs.decoder import DecoderInputGenerator
from onnxport.dummy_inputs.image import ImageInputGenerator
from onnxport.dummy_inputs.joint import JointInputGenerator
from onnxport.dummy_inputs.queries import QueryInputGenerator
from onnxport.dummy_inputs.series import SeriesInputGenerator
from onnxport.dummy_inputs.text import TextInputGenerator
from onnxport.sources.states import State
from onnxport.tasks import IMAGE_AND_TEXTS, Task

_LONG = (16001, 20011, 32003)
_BY_MAIN_INPUT = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}


def main_input_of(model: Any) -> str:
    """Return the input that decides what a model reads: "input_ids", "pixel_values", "input_values", ...

    transformers says that it is "input_ids" where a class names none. If its `forward` does not take that, the usual
    name that it takes decides, or its first parameter.

    Args:
        model: a model or its class.
    """
    named: str = getattr(model, "main_input_name", "input_ids")
    forward = getattr(model, "forward", None)
    if forward is None:  # classes of TensorFlow, which all name theirs
        return named
    takes = inspect.signature(forward).parameters
    if named in takes:
        return named
    own = [name for name, p in takes.items() if name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return next((name for name in ("input_ids", *_BY_MAIN_INPUT) if name in takes), next(iter(own), named))


def generator_for(
    pipeline: Any, task: Task, accepts: frozenset[str] | None, states: Sequence[State] = ()
) -> InputGenerator:
    """Return the input generator of a transformers pipeline.

    Args:
        pipeline: the pipeline.
        task: the row of its task.
        accepts: parameter names of the model's forward, or None for all.
        states: cache tensors and states of a decoder.
    """
    config = pipeline.model.config
    kind = task.kind
    if task.auto == ("AutoModel",):  # the task is used for all modalities; the model's main input decides
        kind = _BY_MAIN_INPUT.get(main_input_of(pipeline.model), kind)
    image_processor = getattr(pipeline, "image_processor", None)
    if kind == "image":
        return ImageInputGenerator(image_processor, config, accepts)
    if kind == "series":
        return SeriesInputGenerator(config)
    if kind == "video":
        return ClipInputGenerator(image_processor, config, accepts)
    if kind == "audio":
        # A vector of a whole recording is made of statistics over more frames than a short sound has. With a mask the
        # models take them in a loop over rows of lengths that no trace knows.
        samples = _LONG if "embeddings" in task.outputs else None
        if samples is not None and accepts is not None:
            accepts -= {"attention_mask"}
        return AudioInputGenerator(getattr(pipeline, "feature_extractor", None), config, accepts, samples)
    if kind in IMAGE_AND_TEXTS:
        text = TextInputGenerator(pipeline.tokenizer, config, "text", accepts, batch="text_batch_size")
        images = ImageInputGenerator(image_processor, config, accepts, batch="image_batch_size")
        return JointInputGenerator(text, images) if kind == "image+texts" else QueryInputGenerator(text, images)
    if kind == "decoder":
        return DecoderInputGenerator(TextInputGenerator(pipeline.tokenizer, config), states, accepts)
    return TextInputGenerator(pipeline.tokenizer, config, kind, accepts, image_processor=image_processor)
