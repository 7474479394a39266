"""From a pipeline to its sources and samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxport.dummy_inputs import InputGenerator, generator_for
from onnxport.dummy_inputs.base import base_sizes
from onnxport.errors import TaskError, UsageError
from onnxport.loading.parts import Part, exported_outputs, is_encoder_decoder, task_of
from onnxport.tasks import Task

if TYPE_CHECKING:
    from onnxport.sources.pytorch.source import TorchSource


def parts_of(pipeline: Any, framework: str) -> tuple[Part, ...]:
    """The graphs that the model of a pipeline becomes, in the order in which they run.

    One; of an encoder-decoder, and of a model of masks, two; three of a model whose images stand in the sequence of
    its text.

    Raises:
        UsageError: an unknown framework.
        TaskError: a model that generates in a way that onnxport does not know.
        ExportError: an encoder-decoder whose states cannot be read, or images that cannot be taken apart from texts.
    """
    if framework == "tf":
        from onnxport.loading.partition_tensorflow import tensorflow_parts

        return tensorflow_parts(pipeline)
    task = task_of(pipeline)
    in_text = task.kind == "image-in-text"
    if framework == "pt" and task.generates and not in_text and is_encoder_decoder(pipeline.model):
        return _encoder_and_decoder(pipeline, task)
    if framework == "pt" and task.generates and not in_text and has_inner_decoder(pipeline.model):
        return _encoder_and_decoder(pipeline, task)
    if framework == "pt" and task.generates and (in_text or task.kind == "image"):
        return _images_in_text(pipeline, task)
    if framework == "pt" and task.generates and task.kind == "text":
        name = getattr(pipeline.model, "architecture", None) or type(pipeline.model).__name__
        raise TaskError(
            f"{name} is no encoder-decoder, so {task.name} is not its task: its tokens share one sequence with a sound "
            "or an image, or it goes on with a text.",
            hint="`onnxport tasks` shows what can be converted.",
        )
    if framework == "pt" and task.kind == "image+points":
        return _image_and_points(pipeline, task)
    source = source_of(pipeline, framework)
    return (Part("model", source, generator_of(pipeline, source), task.decision),)


def has_inner_decoder(model: Any) -> bool:
    """Whether it is an encoder-decoder in all but its config (`sources.inner_decoder`)."""
    from onnxport.sources.pytorch.inner_decoder import inner_decoder

    return inner_decoder(model) is not None


def _encoder_and_decoder(pipeline: Any, task: Task) -> tuple[Part, Part]:
    from onnxport.dummy_inputs.cross_decoder import CrossDecoderInputGenerator
    from onnxport.sources.pytorch.encoder_decoder import CrossDecoderSource, EncoderSource, encoder_inputs
    from onnxport.sources.pytorch.inner_decoder import InnerDecoderSource, InnerEncoderSource, inner_encoder_inputs

    model, architecture = pipeline.model, getattr(pipeline.model, "architecture", None)
    inner = not is_encoder_decoder(model)
    generator = generator_for(pipeline, task, inner_encoder_inputs(model) if inner else encoder_inputs(model))
    base = base_sizes(generator)
    others = {dim.name: dim.probe_sizes[0] for dim in generator.dims[1:] if dim.probe_sizes}
    samples = (generator.make(base), generator.make(base | others))
    encoder: EncoderSource
    decoder: CrossDecoderSource
    if inner:
        encoder = inside = InnerEncoderSource(model, samples, architecture)
        decoder = InnerDecoderSource(model, inside, samples[0], task.outputs, architecture)
    else:
        encoder = EncoderSource(model, samples, architecture)
        decoder = CrossDecoderSource(model, encoder, task.outputs, architecture)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    tokens = CrossDecoderInputGenerator(
        generator, encoder, decoder.states, vocabulary=vocabulary, first_token=decoder.first_token or 0
    )
    return Part("encoder_model", encoder, generator), Part("decoder_model_merged", decoder, tokens, task.decision)


def _images_in_text(pipeline: Any, task: Task) -> tuple[Part, Part, Part]:
    from onnxport.dummy_inputs.images_in_text import image_generators
    from onnxport.sources.pytorch.images_in_text import (
        EmbeddingsDecoderSource,
        ImageFeaturesSource,
        TokenEmbeddingsSource,
        has_images_in_text,
        require_parts_suffice,
    )

    model, architecture = pipeline.model, getattr(pipeline.model, "architecture", None)
    name = architecture or type(model).__name__
    if is_encoder_decoder(model) or has_inner_decoder(model):
        raise TaskError(
            f"{name} is an encoder-decoder: its image does not stand in the sequence of its text.",
            hint="Use `--task image-to-text`.",
        )
    if not has_images_in_text(model):
        raise TaskError(
            f"{name} writes texts about images, but is neither an encoder-decoder, nor has a decoder that attends to "
            "what an encoder made of an image, nor puts features of an image in the places of image tokens. onnxport "
            "cannot convert such models yet.",
        )
    if task.kind == "image":
        raise TaskError(
            f"{name} writes about an image and a text together: its tokens and its image share one sequence. "
            f"{task.name} has an image alone.",
            hint="Use `--task image-text-to-text`.",
        )
    features = ImageFeaturesSource(model, architecture)
    embeddings = TokenEmbeddingsSource(model, architecture)
    decoder = EmbeddingsDecoderSource(model, task.outputs, architecture)
    images, tokens, embedded = image_generators(pipeline, features.accepts(), decoder, embeddings)
    with decoder.weights_kept():
        require_parts_suffice(features, embeddings, decoder, embedded.prompt(2, 8))
    return (
        Part("vision_encoder", features, images),
        Part("embed_tokens", embeddings, tokens),
        Part("decoder_model_merged", decoder, embedded, task.decision),
    )


def _image_and_points(pipeline: Any, task: Task) -> tuple[Part, Part]:
    from onnxport.dummy_inputs.points import PointInputGenerator, PreparedImageGenerator
    from onnxport.runtime.prompts.points import DECODER, EMBEDDINGS, VISION
    from onnxport.sources.pytorch.prompted_masks import (
        ImageEmbeddingsSource,
        MaskDecoderSource,
        prompted_masks,
        require_parts_suffice,
        require_verbs,
    )

    model, architecture = pipeline.model, getattr(pipeline.model, "architecture", None)
    require_verbs(model, architecture or type(model).__name__)
    vision = ImageEmbeddingsSource(model, architecture)
    images = PreparedImageGenerator(getattr(pipeline, "image_processor", None), model.config)
    with vision.weights_kept():
        with prompted_masks(vision.architecture):
            points = PointInputGenerator(images, vision)
        maps = tuple(name for name in points.maps if name.startswith(EMBEDDINGS))
        decoder = MaskDecoderSource(model, maps, task.outputs, architecture)
        require_parts_suffice(decoder, points.whole(), points.maps)
    return Part(VISION, vision, images), Part(DECODER, decoder, points)


def source_of(pipeline: Any, framework: str) -> TorchSource:
    """The model of a pipeline, with the outputs that its task wants.

    Raises:
        UsageError: the framework is not "pt".
    """
    if framework != "pt":
        raise UsageError(f"Framework {framework!r} has no source here; 'pt' and 'tf' have.")
    from onnxport.sources.pytorch.decoder import DecoderSource
    from onnxport.sources.pytorch.source import TorchSource

    kind = DecoderSource if task_of(pipeline).kind == "decoder" else TorchSource
    return kind(pipeline.model, exported_outputs(pipeline), getattr(pipeline.model, "architecture", None))


def generator_of(pipeline: Any, source: TorchSource) -> InputGenerator:
    """What makes the inputs of the model of a pipeline."""
    from onnxport.dummy_inputs.decoder import DecoderInputGenerator
    from onnxport.loading.extra_inputs import extra_inputs
    from onnxport.loading.recurrence import goes_on
    from onnxport.sources.pytorch.decoder import DecoderSource

    states = getattr(source, "states", ())
    if not isinstance(source, DecoderSource):
        source.extra_inputs = extra_inputs(source, lambda: generator_for(pipeline, task_of(pipeline), None))
    generator = generator_for(pipeline, task_of(pipeline), source.accepts(), states)
    recurrent = any(state.growing is None for state in states)
    if recurrent and isinstance(generator, DecoderInputGenerator) and isinstance(source, DecoderSource):
        return generator if goes_on(source, generator) else generator.single_token()
    return generator
