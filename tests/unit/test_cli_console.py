"""Steps, notes, tables and documents of the command line."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from onnxport.cli import documents, tables
from onnxport.cli.console import Console, rendered, rich_console
from tests.unit.sample_manifest import make_manifest


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as in a pipe, whatever runs the tests says of its own width."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_steps_are_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    console = Console(stream)
    with console.step("Load") as step:
        step.done("a model [MASK]")
    console.note("mind [this]")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("✓ Load")
    assert "a model [MASK]  0.0 s" in lines[0]
    assert lines[1] == "note: mind [this]"
    assert "\x1b" not in stream.getvalue()


def test_a_failed_step_is_marked() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError), Console(stream).step("Export"):
        raise ValueError
    assert stream.getvalue().startswith("✗ Export")


def test_marks_are_words_where_the_encoding_lacks_them() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Console(stream).step("Load"):
        pass
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"ok Load")  # type: ignore[attr-defined]


def test_a_silent_console_says_nothing() -> None:
    stream = io.StringIO()
    console = Console(stream, silent=True)
    with console.step("Load"):
        console.note("x")
    assert stream.getvalue() == ""


def test_messages_that_nobody_reads_do_not_stop_the_work() -> None:
    stream = io.StringIO()
    console = Console(stream)
    stream.close()
    with console.step("Load"):
        console.note("x")


def test_a_terminal_gets_a_spinner_and_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    stream = Terminal()
    with Console(stream).step("Load") as step:
        step.done("done")
    assert "\x1b[?25l" in stream.getvalue()  # the cursor is hidden while the spinner turns
    assert "\x1b[?25h" in stream.getvalue()
    assert "\x1b[32m" not in stream.getvalue()


def _text(*shown: object) -> str:
    return rendered(rich_console(io.StringIO()), *shown)  # type: ignore[arg-type]


def test_verification_table() -> None:
    verification = make_manifest().components[0].verification
    assert verification is not None
    lines = _text(tables.verification_table("model", verification)).splitlines()
    assert lines[0] == "model: torch 2.13.0 against onnxruntime 1.32.0 (CPUExecutionProvider)"
    rows = [line.split() for line in lines if "batch" in line]
    # Of the first case the output nearest to its tolerance.
    assert rows[0] == "traced batch 2, sequence 7 hidden 1.50e-04 1.00e-05 2.00e-04 100.0% yes".split()
    assert rows[1] == "longer, padded rows batch 3, sequence 11 logits 2.40e-06 1.10e-07 2.00e-04 yes".split()


def test_verification_table_of_measured_outputs() -> None:
    from dataclasses import replace

    verification = make_manifest().components[0].verification
    assert verification is not None
    first, second = verification.cases
    logits, hidden = first.outputs
    near = replace(logits, tolerance=4e-6, method="float64", source_error=1e-6, graph_error=3.5e-6, max_abs_error=9e-6)
    cases = (replace(first, outputs=(near, replace(hidden, max_abs_error=1e-5))), second)
    lines = _text(tables.verification_table("model", replace(verification, cases=cases))).splitlines()
    assert "source error   graph error   tolerance" in " ".join(lines)
    rows = [line.split() for line in lines if "batch" in line]
    assert rows[0] == "traced batch 2, sequence 7 logits 1.00e-06 3.50e-06 4.00e-06 100.0% yes".split()
    assert rows[1] == "longer, padded rows batch 3, sequence 11 logits 2.40e-06 2.00e-04 yes".split()


def test_verification_table_shows_every_failure() -> None:
    from dataclasses import replace

    verification = make_manifest().components[0].verification
    assert verification is not None
    case = verification.cases[0]
    bad = replace(case, ok=False, outputs=tuple(replace(o, ok=False, max_abs_error=math.inf) for o in case.outputs))
    broken = replace(case, name="crashed", ok=False, outputs=(), error="Bad [shape]")
    text = _text(tables.verification_table("model", replace(verification, cases=(bad, broken))))
    assert text.count("NO") == 3
    assert "inf" in text
    assert "Bad [shape]" in text


def test_sizes() -> None:
    assert tables.bytes_text(12) == "12 bytes"
    assert tables.bytes_text(91_000_000) == "91.0 MB"
    assert tables.bytes_text(2_500_000_000) == "2.5 GB"


def test_documents_are_json_whatever_the_numbers() -> None:
    values = {"path": Path("a"), "nan": math.nan, "inf": -math.inf, "array": np.float32([1.5]), "scalar": np.int64(3)}
    assert json.loads(documents.to_text(values)) == {
        "path": "a",
        "nan": "NaN",
        "inf": "-Infinity",
        "array": [1.5],
        "scalar": 3,
    }
