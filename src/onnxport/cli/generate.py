"""`onnxport run` of models that generate text from text; needs no framework."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.tasks import Task

# The names of the result in transformers' pipelines.
_RESULTS = {"summarization": "summary_text", "translation": "translation_text"}
# The default of transformers' text-to-text pipelines.
_TEXT_TO_TEXT = {"num_beams": 4}


def generates_from_texts(task: Task, folder: Folder) -> bool:
    """Whether the folder generates text from text, with the packages of the base install."""
    from onnxport.runtime.sequence_generation import is_encoder_decoder

    if task.kind == "decoder":
        return True
    has_texts = task.kind == "text" and (folder.path / "tokenizer.json").is_file()
    return has_texts and task.generates and is_encoder_decoder(folder.names)


def generate_texts(
    task: Task, folder: Folder, component: str, inputs: Sequence[str], settings: dict[str, Any], *, chat: bool
) -> list[dict[str, Any]]:
    """Generate a text for each input.

    Args:
        settings: those of `GenerationSettings`.
        chat: the inputs are messages.

    Returns:
        Records with `input` and `output`, named as in transformers' pipelines.

    Raises:
        UsageError: a setting that does not exist, or `chat` for a model without conversations.
    """
    if task.kind == "decoder":
        from onnxport.runtime.text_generation import TextGenerator

        generator = TextGenerator(folder, component)
        if chat:
            found = [generator.chat(conversation(text), **settings) for text in inputs]
        else:
            found = generator(list(inputs), **settings)
    elif chat:
        raise UsageError(f"--chat needs a text-generation model; the task is {task.name}.", hint="Leave --chat out.")
    else:
        from onnxport.runtime.sequence_generation import TextToTextGenerator

        found = TextToTextGenerator(folder, component, defaults=_TEXT_TO_TEXT)(list(inputs), **settings)
    name = _RESULTS.get(task.name, "generated_text")
    answers = [[answer] if isinstance(answer, str) else answer for answer in found]
    return [
        {"input": text, "output": [{name: one} for one in answer]} for text, answer in zip(inputs, answers, strict=True)
    ]


def conversation(text: str) -> list[dict[str, Any]]:
    """The messages in `text`: a JSON list of messages, or else one message of the user.

    Raises:
        UsageError: a JSON list of something else.
    """
    if not text.lstrip().startswith("["):
        return [{"role": "user", "content": text}]
    try:
        messages = json.loads(text)
    except ValueError:
        return [{"role": "user", "content": text}]
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        raise UsageError(
            "A message needs a role and a content; one of these has no role.",
            hint='[{"role": "user", "content": "Hello."}]',
        )
    return list(messages)


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """The settings of `--set name=value`; a value is JSON, or else a string.

    Raises:
        UsageError: no `=`.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair} is not NAME=VALUE.", hint="For example: --set max_new_tokens=20")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return settings
