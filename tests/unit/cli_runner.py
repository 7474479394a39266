"""Runs the command line in this process, or in one of its own, for the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxport.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


def refusal(outcome: Outcome, writes: Path) -> str:
    """What stderr says of an input that was refused: exit code 2, no traceback, no data, and `writes` is not there."""
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert "error:" in outcome.err
    assert not writes.exists() or not any(writes.iterdir())
    leftovers = [entry.name for entry in writes.parent.iterdir() if "onnxport-" in entry.name]
    assert leftovers == []
    return " ".join(outcome.err.split())


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """`onnxport *words` in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


def run_apart(*words: object, before: str = "", stdout: Any = subprocess.PIPE, **options: Any) -> Outcome:
    """`onnxport *words` in a process of its own; `before` is Python code that runs first."""
    code = f"import sys; {before or 'pass'}\nfrom onnxport.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], stdout=stdout, stderr=subprocess.PIPE, text=True, **options
    )
    return Outcome(done.returncode, done.stdout or "", done.stderr)
