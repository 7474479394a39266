"""Chat templates: a folder's template makes the prompt for a conversation, in Jinja2's sandbox as in transformers.

The sandbox keeps a template from Python. That it ends, and takes little memory, is for the process that it runs in.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxport.errors import FolderError, MissingDependencyError, UsageError
from onnxport.formats.json_file import read_bytes, read_object_if_present
from onnxport.runtime.prompts.special_tokens import special_tokens_in
from onnxport.runtime.prompts.template_process import PROCESS, TemplateError

_LARGEST = 2**20  # bytes of a template
_SAFE_JINJA2 = (3, 1, 6)
_INSTALL = 'pip install "jinja2>=3.1.6"'


def render(folder: Path, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """The prompt for the next message of the assistant, with its special tokens.

    Args:
        folder: has chat_template.jinja, or a template in tokenizer_config.json.
        messages: `{"role": "user", "content": "..."}`, oldest first.
        variables: of the template, such as `tools`; `add_generation_prompt` is True unless given.

    Raises:
        FolderError: no template.
        MissingDependencyError: Jinja2 is not installed.
        UsageError: no messages, or the template raises an error or takes too much time or memory.
    """
    if isinstance(messages, (str, Mapping)) or not messages:
        raise UsageError("A conversation is a list of messages.", hint='[{"role": "user", "content": "Good morning."}]')
    config = read_object_if_present(folder / "tokenizer_config.json")
    template = _template(folder, config)
    _require_jinja2()
    given: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": True}
    tokens = special_tokens_in(read_object_if_present(folder / "special_tokens_map.json")) | special_tokens_in(config)
    try:
        return PROCESS.render(template, {"messages": list(messages), **given, **tokens, **variables})
    except TemplateError as error:
        raise UsageError(
            f"The chat template of {folder.name} fails on these messages: {error}.",
            hint="Usual roles are system, user and assistant, and the last message is from the user.",
        ) from error


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _read_template(file)
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        rows = (row for row in found if isinstance(row, dict) and row.get("name") == "default")
        found = next((row.get("template") for row in rows), None)
    if not isinstance(found, str):
        raise FolderError(
            f"{folder} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json.",
            hint="Write the prompt in the format that the model was trained on.",
        )
    return found


def _read_template(file: Path) -> str:
    try:
        return read_bytes(file, _LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FolderError(f"{file} is not UTF-8 text.", hint="Copy it again from the checkpoint.") from error


def _require_jinja2() -> None:
    if importlib.util.find_spec("jinja2") is None:
        raise MissingDependencyError("A chat template needs Jinja2, which is not installed.", hint=_INSTALL)
    version = importlib.metadata.version("jinja2")
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < _SAFE_JINJA2:
        # A template is code from the checkpoint.
        raise MissingDependencyError(f"Jinja2 {version} has known sandbox escapes.", hint=_INSTALL)
