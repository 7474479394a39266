"""One model of the table: made, converted, taken through its steps and described."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxport
from tests.graphs.describe import describe
from tests.graphs.models import MODELS


def work(name: str) -> tuple[str, dict[str, Any], float, str]:
    """(name, its part of the record, seconds, tracebacks of what is no `OnnxPortError`)."""
    _silence()
    started = time.monotonic()
    model = MODELS[name]
    part: dict[str, Any] = {}
    errors: dict[str, str] = {}
    traces: list[str] = []

    def attempt(step: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # an error is a result here
            errors[step] = _words(error, root)
            if not isinstance(error, onnxport.OnnxPortError):
                traces.append(traceback.format_exc())
            return None

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        written = root / "written"
        written.mkdir()
        output = written / model.output
        given = attempt("make", lambda: model.make(root / "source"))
        if given is not None:
            arguments = {**given, **model.settings}
            if attempt("convert", lambda: onnxport.convert(None, arguments.pop("model"), output, **arguments)):
                for step, call in model.steps.items():
                    attempt(step, lambda call=call: call(output))
                part["files"] = sorted(p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file())
                part["graphs"] = describe(written, model.names_vary)
    if errors:
        part["errors"] = errors
    return name, part, time.monotonic() - started, "".join(traces)


def _words(error: Exception, root: Path) -> str:
    """Without numbers and paths, which depend on the machine."""
    text = f"{type(error).__name__}: {error}".replace(str(root), "ROOT")
    return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", " ".join(text.split()))


def _silence() -> None:
    """What libraries print, in C too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(nowhere, stream)
