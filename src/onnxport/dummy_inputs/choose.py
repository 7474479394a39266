"""Which sampler fits a pipeline: by the task's kind and the model's main input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxport.dummy_inputs.audio import AudioSampler
from onnxport.dummy_inputs.base import Sampler
from onnxport.dummy_inputs.decoder import DecoderSampler
from onnxport.dummy_inputs.image import ImageSampler
from onnxport.dummy_inputs.joint import JointSampler
from onnxport.dummy_inputs.text import TextSampler
from onnxport.sources.states import State
from onnxport.tasks import Task

_BY_MAIN_INPUT = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}


def sampler_for(nlp: Any, task: Task, accepts: frozenset[str] | None, states: Sequence[State] = ()) -> Sampler:
    """The sampler of a transformers pipeline.

    Args:
        nlp: the pipeline.
        task: its row of the table.
        accepts: names of the forward's parameters.
        states: what a decoder carries from call to call.
    """
    config = nlp.model.config
    kind = task.kind
    if task.auto == ("AutoModel",):  # one task name, every modality: the model says what it eats
        kind = _BY_MAIN_INPUT.get(getattr(nlp.model, "main_input_name", "input_ids"), kind)
    image_processor = getattr(nlp, "image_processor", None)
    if kind == "image":
        return ImageSampler(image_processor, config, accepts)
    if kind == "audio":
        return AudioSampler(getattr(nlp, "feature_extractor", None), config, accepts)
    if kind == "image+texts":
        text = TextSampler(nlp.tokenizer, config, "text", accepts, batch="text_batch_size")
        return JointSampler(text, ImageSampler(image_processor, config, accepts, batch="image_batch_size"))
    if kind == "decoder":
        return DecoderSampler(TextSampler(nlp.tokenizer, config), states, accepts)
    return TextSampler(nlp.tokenizer, config, kind, accepts, image_processor=image_processor)
