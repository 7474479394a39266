"""From a pipeline whose model is of TensorFlow to its sources and samplers."""

from __future__ import annotations

from typing import Any

from onnxport.dummy_inputs import InputGenerator, generator_for
from onnxport.dummy_inputs.base import base_sizes
from onnxport.dummy_inputs.cross_decoder import CrossDecoderInputGenerator
from onnxport.dummy_inputs.decoder import DecoderInputGenerator
from onnxport.errors import ExportError, OnnxPortError, TaskError
from onnxport.loading.parts import Part, exported_outputs, is_encoder_decoder, task_of
from onnxport.loading.recurrence import goes_on
from onnxport.sources.tensorflow.encoder_decoder import TensorflowCrossDecoder, TensorflowEncoder
from onnxport.sources.tensorflow.transformers import CachedSource, TransformersSource
from onnxport.system.library_errors import first_line
from onnxport.tasks import Task


def tensorflow_parts(pipeline: Any) -> tuple[Part, ...]:
    """As `choose.parts_of`: one graph; of an encoder-decoder two.

    Raises:
        TaskError: a model that generates in a way that onnxport does not know.
        ExportError: states that cannot be read; or it does not run.
    """
    architecture = getattr(pipeline.model, "architecture", None) or type(pipeline.model).__name__
    try:
        return _parts(pipeline, task_of(pipeline), architecture)
    except OnnxPortError:
        raise
    except Exception as error:  # models refuse inputs with any exception
        raise ExportError(
            f"{architecture} does not run on its own preprocessing: {first_line(error)}.",
            hint="Check that the checkpoint and its tokenizer or processor belong together.",
        ) from error


def _parts(pipeline: Any, task: Task, architecture: str) -> tuple[Part, ...]:
    if task.generates and is_encoder_decoder(pipeline.model):
        return _encoder_and_decoder(pipeline, task, architecture)
    if task.generates and task.kind in ("image", "image-in-text"):
        raise TaskError(
            f"{architecture} writes texts about images, but is no encoder-decoder. Of TensorFlow onnxport cannot "
            "convert such models."
        )
    outputs = exported_outputs(pipeline)
    if task.kind == "decoder":
        decoder = CachedSource(pipeline.model, outputs, architecture)
        return (Part("model", decoder, _tokens(pipeline, task, decoder), task.decision),)
    source = TransformersSource(pipeline.model, outputs, architecture)
    return (Part("model", source, generator_for(pipeline, task, source.accepts()), task.decision),)


def _encoder_and_decoder(pipeline: Any, task: Task, architecture: str) -> tuple[Part, Part]:
    encoder_inputs = TransformersSource(pipeline.model, (), architecture).accepts() or frozenset()
    generator = generator_for(
        pipeline, task, frozenset(name for name in encoder_inputs if not name.startswith("decoder_"))
    )
    base = base_sizes(generator)
    others = {dim.name: dim.probe_sizes[0] for dim in generator.dims if dim.probe_sizes}
    encoder = TensorflowEncoder(pipeline.model, (generator.make(base), generator.make(base | others)), architecture)
    decoder = TensorflowCrossDecoder(pipeline.model, encoder, task.outputs, architecture)
    vocabulary = pipeline.model.config.get_text_config(decoder=True).vocab_size
    tokens = CrossDecoderInputGenerator(
        generator, encoder, decoder.states, vocabulary=vocabulary, first_token=decoder.first_token or 0
    )
    return Part("encoder_model", encoder, generator), Part("decoder_model_merged", decoder, tokens, task.decision)


def _tokens(pipeline: Any, task: Task, decoder: CachedSource) -> InputGenerator:
    """The sampler of a decoder; where the class looks only at the last of several tokens, of one token a call."""
    generator = generator_for(pipeline, task, decoder.accepts(), decoder.states)
    assert isinstance(generator, DecoderInputGenerator)
    try:
        several = goes_on(decoder, generator)
    except Exception:  # it refuses several tokens after others
        several = False
    return generator if several else generator.single_token()
