"""What the source answers, and what its parts are, before the exporter touches the model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.artifact.assets import processor_files
from onnxport.tasks import Task
from onnxport.user_runs.inputs import CONVERSATION, Call, calls_for, shortened
from onnxport.user_runs.parts import TOKENIZER_FILE, describe, describe_part, load_part
from onnxport.user_runs.sources import Ask, source_of, undisturbed

if TYPE_CHECKING:
    from onnxport.loading.model_to_export import ModelToExport

# Larger sources answer fewer inputs, with fewer tokens: each token reads all weights.
# (bytes of weights, inputs, tokens)
_LIMITS = ((2**32, 1, 3), (2**29, 2, 6))


@dataclass(frozen=True)
class Answered:
    """A call, and what the source answered.

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
        framework: "pt" or "tf".
        answered: calls that the source can answer.
        parts: config, tokenizer, processors and generation settings as plain values, by name.
        origin: the checkpoint's folder, whose files are copied; None where there is none.
        replaced: what the user chose in place of the checkpoint's.
        generation: settings that go into generation_config.json in the place of the checkpoint's.
        tokenizer_file: the tokenizer.json that the folder gets in the place of the checkpoint's, whose tokens are other
            ones than the tokenizer's; None where it is a copy.
        prompt: what the chat template makes of a conversation; None without one.
        tokenizer_again: the tokenizer as transformers has it after saving and loading; None where its file is a copy.
        processor_files: name -> text of the files of its processor that are no copies. transformers reads one of them,
            other run times read the other.
    """

    task: Task
    framework: str
    answered: tuple[Answered, ...] = ()
    parts: dict[str, Any] = field(default_factory=dict)
    origin: Path | None = None
    replaced: frozenset[str] = frozenset()
    generation: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    tokenizer_file: str | None = None
    tokenizer_again: Any = None
    processor_files: dict[str, str] = field(default_factory=dict)


def record_answers(to_export: ModelToExport) -> SourceAnswers:
    """Ask the source, and describe its parts.

    Inputs that the source cannot answer are left out: a user cannot use them either.
    """
    pipeline, task, framework = to_export.pipeline, to_export.task, to_export.source.framework
    if pipeline is None:
        return SourceAnswers(task, framework)
    parts = describe(pipeline)
    if to_export.generation and "generation_config" in parts:
        parts["generation_config"] |= to_export.generation  # what the model's own code says wins
    answered: tuple[Answered, ...] = ()
    ask = source_of(to_export)
    if ask is not None:
        with undisturbed(to_export):
            calls = calls_for(task, pipeline)
            for size, count, tokens in _LIMITS:
                if to_export.source.weight_bytes > size:
                    calls = [shortened(call, tokens) for call in calls[:count]]
                    break
            answered = tuple(found for call in calls if (found := _answered(ask, call)) is not None)
    return SourceAnswers(
        task, framework, answered, parts, to_export.origin, to_export.replaced, to_export.generation,
        _prompt(getattr(pipeline, "tokenizer", None)) if task.kind == "decoder" else None,
        _corrected(pipeline, to_export.origin), _again(getattr(pipeline, "tokenizer", None), to_export.origin),
        _processor_files(to_export),
    )  # fmt: skip


def _answered(ask: Ask, call: Call) -> Answered | None:
    try:
        answer, near_tie = ask(call)
    except Exception:  # models and tokenizers refuse inputs with any exception
        return None
    return Answered(call, answer, near_tie)


def _corrected(pipeline: Any, origin: Path | None) -> str | None:
    from onnxport.loading.fast_tokenizer import corrected_json

    file = origin / TOKENIZER_FILE if origin is not None else None
    return corrected_json(getattr(pipeline, "tokenizer", None), file) if file is not None and file.is_file() else None


def _again(tokenizer: Any, origin: Path | None) -> Any:
    """Describe the tokenizer after saving and loading it.

    transformers makes parts of some tokenizers again at each loading: Qwen2's has a normalizer that the same tokenizer,
    read from a GGUF file, has not. A folder cannot be nearer to the source than that; its tokenizer.json is the
    source's, which is compared on its own.
    """
    if tokenizer is None or (origin is not None and (origin / TOKENIZER_FILE).is_file()):
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer.save_pretrained(folder)
            return describe_part("tokenizer", load_part(Path(folder), "tokenizer"))
        except Exception:  # a tokenizer of Python code may not be loadable again
            return None


def _processor_files(to_export: ModelToExport) -> dict[str, str]:
    try:
        return processor_files(to_export.pipeline, to_export.origin, to_export.replaced)
    except Exception:  # a part of Python code may not be able to save itself; writing the folder will tell
        return {}


def _prompt(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        prompt: str = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    except Exception:  # templates refuse roles and orders of messages
        return None
    return prompt
