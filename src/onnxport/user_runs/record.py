"""What the source pipeline answers, and what its parts are, before the exporter touches the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.tasks import Task
from onnxport.user_runs.answers import plain
from onnxport.user_runs.components import describe
from onnxport.user_runs.inputs import Call, calls_for
from onnxport.user_runs.margins import recorded_margins

if TYPE_CHECKING:
    from onnxport.loading.model_to_export import ModelToExport

# A larger source answers fewer inputs: each token of an answer reads all weights.
_LARGE_BYTES, _FEW = 2**32, 2


@dataclass(frozen=True)
class Answered:
    """A call, and what the source pipeline answered.

    Attributes:
        near_tie: a choice in it was so close that rounding may turn it.
    """

    call: Call
    answer: Any
    near_tie: bool = False


@dataclass(frozen=True)
class SourceAnswers:
    """The source, as the folder will be compared with it.

    Attributes:
        answered: calls that the source can answer.
        parts: config, tokenizer, processors and generation settings as plain values, by name.
        origin: the checkpoint's folder, or None.
        replaced: parts that the user chose instead of the checkpoint's.
        prompt: what the chat template makes of a conversation; None without one.
    """

    task: Task
    answered: tuple[Answered, ...] = ()
    parts: dict[str, Any] = field(default_factory=dict)
    origin: Path | None = None
    replaced: frozenset[str] = frozenset()
    prompt: str | None = None


MESSAGES = [
    {"role": "user", "content": "Who wrote the first program?"},
    {"role": "assistant", "content": "Ada did."},
    {"role": "user", "content": "Where?"},
]


def record_answers(to_export: ModelToExport) -> SourceAnswers:
    """Ask the source pipeline.

    Inputs that the source cannot answer are left out: a random model refuses some, and a user cannot use them.
    """
    pipeline, task = to_export.pipeline, to_export.task
    if pipeline is None:
        return SourceAnswers(task)
    parts = describe(pipeline)
    answered: tuple[Answered, ...] = ()
    if _takes_inputs(pipeline, task):
        with _undisturbed(to_export):
            calls = calls_for(task, pipeline)
            if to_export.source.weight_bytes > _LARGE_BYTES:
                calls = calls[:_FEW]
            answered = tuple(found for call in calls if (found := _ask(pipeline, task, call)) is not None)
    prompt = _prompt(getattr(pipeline, "tokenizer", None)) if task.kind == "decoder" else None
    return SourceAnswers(task, answered, parts, to_export.origin, to_export.replaced, prompt)


def ask(pipeline: Any, task: Task, call: Call) -> Any:
    """The answer of a pipeline as a plain value. Of feature-extraction, all outputs by name, as `onnxport run` gives."""
    if task.name == "feature-extraction":
        inputs = pipeline.preprocess(*call.arguments, **call.keywords)
        outputs = pipeline.forward(inputs)
        return plain({name: value for name, value in dict(outputs).items() if hasattr(value, "shape")})
    return plain(pipeline(*call.arguments, **call.keywords))


def _takes_inputs(pipeline: Any, task: Task) -> bool:
    """Whether it prepares inputs by itself: of a checkpoint without tokenizer or processor it does not."""
    from onnxport.loading.bare import BarePipeline

    return callable(pipeline) and not isinstance(pipeline, BarePipeline) and hasattr(pipeline, "preprocess")


def _ask(pipeline: Any, task: Task, call: Call) -> Answered | None:
    try:
        with recorded_margins(pipeline) as margins:
            answer = ask(pipeline, task, call)
    except Exception:  # models and tokenizers refuse inputs with any exception
        return None
    return Answered(call, answer, margins.near_tie)


@contextmanager
def _undisturbed(to_export: ModelToExport) -> Iterator[None]:
    """The model is afterwards as it was, and so is the random state."""
    import torch

    from onnxport.sources.pytorch.model_state import state_kept

    with ExitStack() as stack:
        stack.enter_context(to_export.source.weights_kept())
        stack.enter_context(state_kept(to_export.pipeline.model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        yield


def _prompt(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        prompt: str = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    except Exception:  # templates refuse roles and orders of messages
        return None
    return prompt
