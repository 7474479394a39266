"""Chat templates: a folder's template makes the prompt for a conversation, in Jinja2's sandbox as in transformers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from onnxport.errors import FolderError, MissingDependencyError, UsageError
from onnxport.formats.json_file import read_object
from onnxport.system.library_errors import first_line

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
        UsageError: no messages, or the template raises an error.
    """
    if isinstance(messages, (str, Mapping)) or not messages:
        raise UsageError("A conversation is a list of messages.", hint='[{"role": "user", "content": "Good morning."}]')
    config = _read(folder / "tokenizer_config.json")
    template, environment = _template(folder, config), _environment()
    given: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": True}
    tokens = _special_tokens(_read(folder / "special_tokens_map.json")) | _special_tokens(config)
    try:
        text: str = environment.from_string(template).render(
            messages=list(messages), **{**given, **tokens, **variables}
        )
    except Exception as error:
        raise UsageError(
            f"The chat template of {folder.name} fails on these messages: {first_line(error)}.",
            hint="Usual roles are system, user and assistant, and the last message is from the user.",
        ) from error
    return text


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((row["template"] for row in found if row.get("name") == "default"), None)
    if not isinstance(found, str):
        raise FolderError(
            f"{folder} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json.",
            hint="Write the prompt in the format that the model was trained on.",
        )
    return found


def _environment() -> Any:
    if importlib.util.find_spec("jinja2") is None:
        raise MissingDependencyError("A chat template needs Jinja2, which is not installed.", hint=_INSTALL)
    from jinja2 import __version__, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    if tuple(int(part) for part in __version__.split(".")[:3] if part.isdigit()) < _SAFE_JINJA2:
        # A template is code from the checkpoint.
        raise MissingDependencyError(f"Jinja2 {__version__} has known sandbox escapes.", hint=_INSTALL)

    class Generation(Extension):
        """`{% generation %}` marks the assistant's answers for training; here only its content matters."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> str:
        raise ValueError(message)

    def as_json(value: Any, ensure_ascii: bool = False, **settings: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **settings)  # jinja2's own escapes HTML

    class Variables(Namespace):
        """`namespace()` of a template, without access to Python's own attributes."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"A chat template cannot set {name!r}.")
            super().__setitem__(name, value)

    def variables(*rows: Any, **values: Any) -> Variables:
        made = Variables()
        for name, value in dict(*rows, **values).items():
            made[name] = value
        return made

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    environment.globals["namespace"] = variables
    environment.globals["dict"] = lambda *rows, **values: dict(*rows, **values)
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ...: strings, or objects with a `content`."""
    found = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}
