"""From a pipeline whose model is of TensorFlow to its sources and samplers."""

from __future__ import annotations

from typing import Any

from onnxport.dummy_inputs import Sampler, sampler_for
from onnxport.dummy_inputs.base import base_sizes
from onnxport.dummy_inputs.cross_decoder import CrossDecoderSampler
from onnxport.dummy_inputs.decoder import DecoderSampler
from onnxport.errors import ExportError, OnnxPortError, TaskError
from onnxport.loading.parts import Part, is_encoder_decoder, task_of
from onnxport.loading.recurrence import goes_on
from onnxport.sources.tensorflow.encoder_decoder import TensorflowCrossDecoder, TensorflowEncoder
from onnxport.sources.tensorflow.transformers import CachedSource, TransformersSource
from onnxport.system.library_errors import first_line
from onnxport.tasks import Task


def tensorflow_parts(nlp: Any) -> tuple[Part, ...]:
    """As `choose.parts_of`: one graph; of an encoder-decoder two.

    Raises:
        TaskError: a model that generates in a way that onnxport does not know.
        ExportError: states that cannot be read; or it does not run.
    """
    architecture = getattr(nlp.model, "architecture", None) or type(nlp.model).__name__
    try:
        return _parts(nlp, task_of(nlp), architecture)
    except OnnxPortError:
        raise
    except Exception as error:  # models refuse inputs with any exception
        raise ExportError(
            f"{architecture} does not run on its own preprocessing: {first_line(error)}. Nothing was written.",
            hint="Check that the checkpoint and its tokenizer or processor belong together.",
        ) from error


def _parts(nlp: Any, task: Task, architecture: str) -> tuple[Part, ...]:
    if task.generates and is_encoder_decoder(nlp.model):
        return _encoder_and_decoder(nlp, task, architecture)
    if task.generates and task.kind in ("image", "image-in-text"):
        raise TaskError(
            f"{architecture} writes texts about images, but is no encoder-decoder. Of TensorFlow onnxport cannot "
            "convert such models. Nothing was written."
        )
    dropped = getattr(nlp, "dropped_outputs", ())
    outputs = tuple(name for name in task.outputs if name not in dropped)
    if task.kind == "decoder":
        decoder = CachedSource(nlp.model, outputs, architecture)
        return (Part("model", decoder, _tokens(nlp, task, decoder), task.decision),)
    source = TransformersSource(nlp.model, outputs, architecture)
    return (Part("model", source, sampler_for(nlp, task, source.accepts()), task.decision),)


def _encoder_and_decoder(nlp: Any, task: Task, architecture: str) -> tuple[Part, Part]:
    encoder_inputs = TransformersSource(nlp.model, (), architecture).accepts() or frozenset()
    sampler = sampler_for(nlp, task, frozenset(name for name in encoder_inputs if not name.startswith("decoder_")))
    base = base_sizes(sampler)
    others = {knob.name: knob.others[0] for knob in sampler.knobs if knob.others}
    encoder = TensorflowEncoder(nlp.model, (sampler.make(base), sampler.make(base | others)), architecture)
    decoder = TensorflowCrossDecoder(nlp.model, encoder, task.outputs, architecture)
    vocabulary = nlp.model.config.get_text_config(decoder=True).vocab_size
    tokens = CrossDecoderSampler(
        sampler, encoder, decoder.states, vocabulary=vocabulary, first_token=decoder.first_token or 0
    )
    return Part("encoder_model", encoder, sampler), Part("decoder_model_merged", decoder, tokens, task.decision)


def _tokens(nlp: Any, task: Task, decoder: CachedSource) -> Sampler:
    """The sampler of a decoder; where the class looks only at the last of several tokens, of one token a call."""
    sampler = sampler_for(nlp, task, decoder.accepts(), decoder.states)
    assert isinstance(sampler, DecoderSampler)
    try:
        several = goes_on(decoder, sampler)
    except Exception:  # it refuses several tokens after others
        several = False
    return sampler if several else sampler.one_by_one()
