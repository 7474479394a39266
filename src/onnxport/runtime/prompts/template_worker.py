"""The process that renders chat templates: a template is a program of somebody else, and may never end.

    python -I template_worker.py

It reads requests and writes answers, each a line of JSON, until its input ends. It runs with little memory and little
time of the processor (where the system has such limits), and cannot write files. The other side is
`template_process.py`. This file imports nothing of onnxport: `-I` leaves it no path to it.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from typing import Any

try:
    import resource
except ImportError:  # not a Unix system: only the caller's clock ends a template
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 2**29
MOST_CHARACTERS = 2**22  # of a prompt; a context of a million tokens has about as many


def main() -> int:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path[:] = json.loads(sys.stdin.readline())
    environment = _environment()
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        answers.write(json.dumps(_answer(environment, json.loads(line))) + "\n")
        answers.flush()
    return 0


def _answer(environment: Any, request: dict[str, Any]) -> dict[str, str]:
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        end = int(used.ru_utime + used.ru_stime) + 1 + int(request["seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))
    try:
        text = ""
        for piece in environment.from_string(request["template"]).generate(**request["variables"]):
            text += piece
            if len(text) > MOST_CHARACTERS:
                return {"error": f"its text has more than {MOST_CHARACTERS:,} characters"}
        return {"text": text}
    except MemoryError:
        return {"error": f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory"}
    except Exception as error:
        lines = str(error).strip().splitlines()
        return {"error": lines[0][:300] if lines else type(error).__name__}


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

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


if __name__ == "__main__":
    sys.exit(main())
