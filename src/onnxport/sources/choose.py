"""From a pipeline to its sources and samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.errors import TaskError, UsageError
from onnxport.samples import Sampler, sampler_for
from onnxport.samples.base import base_sizes
from onnxport.tasks import Task, find_task

if TYPE_CHECKING:
    from onnxport.sources.pytorch import TorchSource


def task_of(nlp: Any) -> Task:
    """The row of a pipeline's task.

    Raises:
        TaskError: the pipeline's task is not in the table.
    """
    return find_task(nlp.task)


@dataclass(frozen=True)
class Part:
    """A graph to be: a source, and what makes its inputs.

    Attributes:
        name: of the component in the folder.
        decision: what a user sees in its outputs (`Task.decision`).
    """

    name: str
    source: TorchSource
    sampler: Sampler
    decision: str | None = None


def parts_of(nlp: Any, framework: str) -> tuple[Part, ...]:
    """The graphs that the model of a pipeline becomes: one, or encoder and decoder, in the order in which they run.

    Raises:
        UsageError: the framework is not "pt".
        TaskError: a model that generates in a way that onnxport does not know.
        ExportError: an encoder-decoder whose states cannot be read.
    """
    task = task_of(nlp)
    if framework == "pt" and task.generates and is_encoder_decoder(nlp.model):
        return _encoder_and_decoder(nlp, task)
    if framework == "pt" and task.generates and task.kind == "image":
        raise TaskError(
            f"{type(nlp.model).__name__} writes texts about images, but is no encoder-decoder: its tokens and its "
            "image share one sequence. onnxport cannot convert such models yet. Nothing was written.",
        )
    source = source_of(nlp, framework)
    return (Part("model", source, sampler_of(nlp, source), task.decision),)


def is_encoder_decoder(model: Any) -> bool:
    """Whether it writes an answer with a decoder that looks at what an encoder made of the input."""
    return bool(getattr(model.config, "is_encoder_decoder", False)) and model.can_generate()


def _encoder_and_decoder(nlp: Any, task: Task) -> tuple[Part, Part]:
    from onnxport.samples.cross_decoder import CrossDecoderSampler
    from onnxport.sources.encoder_decoder import CrossDecoderSource, EncoderSource, encoder_inputs

    model, architecture = nlp.model, getattr(nlp.model, "architecture", None)
    sampler = sampler_for(nlp, task, encoder_inputs(model))
    base = base_sizes(sampler)
    others = {knob.name: knob.others[0] for knob in sampler.knobs[1:] if knob.others}
    samples = (sampler.make(base), sampler.make(base | others))
    encoder = EncoderSource(model, samples, architecture)
    decoder = CrossDecoderSource(model, encoder, task.outputs, architecture)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    tokens = CrossDecoderSampler(
        sampler, encoder, decoder.states, vocabulary=vocabulary, first_token=decoder.first_token or 0
    )
    return Part("encoder_model", encoder, sampler), Part("decoder_model_merged", decoder, tokens, task.decision)


def source_of(nlp: Any, framework: str) -> TorchSource:
    """The model of a pipeline, with the outputs that its task wants.

    Raises:
        UsageError: the framework is not "pt".
    """
    if framework != "pt":
        raise UsageError(f"Framework {framework!r} has no source here; 'pt' has.")
    from onnxport.sources.decoder import DecoderSource
    from onnxport.sources.pytorch import TorchSource

    kind = DecoderSource if task_of(nlp).kind == "decoder" else TorchSource
    dropped = getattr(nlp, "dropped_outputs", ())
    outputs = tuple(name for name in task_of(nlp).outputs if name not in dropped)
    return kind(nlp.model, outputs, getattr(nlp.model, "architecture", None))


def sampler_of(nlp: Any, source: TorchSource) -> Sampler:
    """What makes the inputs of the model of a pipeline."""
    from onnxport.samples.decoder import DecoderSampler
    from onnxport.sources.decoder import DecoderSource
    from onnxport.sources.recurrence import goes_on

    states = getattr(source, "states", ())
    sampler = sampler_for(nlp, task_of(nlp), source.accepts(), states)
    recurrent = any(state.growing is None for state in states)
    if recurrent and isinstance(sampler, DecoderSampler) and isinstance(source, DecoderSource):
        return sampler if goes_on(source, sampler) else sampler.one_by_one()
    return sampler
