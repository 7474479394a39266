"""`onnxport run` of models that write texts from texts; needs no framework."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from onnxport.artifact.folder import Folder
from onnxport.errors import UsageError
from onnxport.tasks import Task

# What the pipelines call their result.
_RESULTS = {"summarization": "summary_text", "translation": "translation_text"}
# Beams where nothing is said, as in the pipelines of text to text.
_TEXT_TO_TEXT = {"num_beams": 4}


def writes(row: Task, folder: Folder) -> bool:
    """Whether the folder writes texts from texts with what the base install has."""
    from onnxport.runtime.sequence_generation import is_encoder_decoder

    if row.kind == "decoder":
        return True
    has_texts = row.kind == "text" and (folder.path / "tokenizer.json").is_file()
    return has_texts and row.generates and is_encoder_decoder(folder.names)


def write_texts(
    row: Task, folder: Folder, component: str, inputs: Sequence[str], settings: dict[str, Any], *, chat: bool
) -> list[dict[str, Any]]:
    """What the model makes of each input: records with `input` and `output`, as the pipelines have it.

    Raises:
        UsageError: a setting that does not exist, or a conversation for a model that has none.
    """
    if row.kind == "decoder":
        from onnxport.runtime.text_generation import TextGenerator

        writer = TextGenerator(folder, component)
        if chat:
            found = [writer.chat(conversation(text), **settings) for text in inputs]
        else:
            found = writer(list(inputs), **settings)
    elif chat:
        raise UsageError("--chat is for models that go on with a text.", hint="Leave it out.")
    else:
        from onnxport.runtime.sequence_generation import TextToTextGenerator

        found = TextToTextGenerator(folder, component, defaults=_TEXT_TO_TEXT)(list(inputs), **settings)
    name = _RESULTS.get(row.name, "generated_text")
    answers = [[answer] if isinstance(answer, str) else answer for answer in found]
    return [
        {"input": text, "output": [{name: one} for one in answer]} for text, answer in zip(inputs, answers, strict=True)
    ]


def conversation(text: str) -> list[dict[str, Any]]:
    """Messages: a JSON list of them, or one of the user with this text.

    Raises:
        UsageError: JSON that is no list of messages.
    """
    if not text.lstrip().startswith("["):
        return [{"role": "user", "content": text}]
    try:
        messages = json.loads(text)
    except ValueError:
        return [{"role": "user", "content": text}]
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        raise UsageError("A message needs a role and a content.", hint='[{"role": "user", "content": "Hello."}]')
    return list(messages)


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` as settings; a value is JSON, or else a text.

    Raises:
        UsageError: no `=`.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair}: a setting is NAME=VALUE.", hint="Such as --set max_new_tokens=20.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return settings
