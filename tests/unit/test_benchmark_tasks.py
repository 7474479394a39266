"""benchmarks/tasks: every row of the table of tasks has a checkpoint, a call and a measured line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.tasks.calls import call_of, write_inputs
from benchmarks.tasks.checkpoints import ROWS
from benchmarks.tasks.compare import compare
from benchmarks.tasks.table import RESULTS, table
from onnxport.tasks import TASKS


def test_every_row_is_measured(tmp_path: Path) -> None:
    names = {task.name for task in TASKS}
    assert set(ROWS) == names
    write_inputs(tmp_path)
    for name in names:
        arguments, keywords = call_of(name, tmp_path)
        assert arguments or keywords
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert [row["task"] for row in results["rows"]] == [task.name for task in TASKS]
    assert not any(row["problem"] or row["onnxport"]["beyond_base"] for row in results["rows"])
    assert table(results).count("\n| ") == len(names)


def test_what_differs_is_found() -> None:
    row = {"label": "a", "score": 0.5, "box": np.zeros((2, 3), np.float32)}
    assert compare([row], [dict(row, score=0.5 + 1e-4)]).error < 2e-4
    assert compare([row], [dict(row, score=0.5 + 1e-4)]).problem is None
    assert compare([row], [row]) == compare(row, row)
    for other in ([dict(row, label="b")], [row, row], [{"label": "a"}], [dict(row, box=np.zeros((3, 2), np.float32))]):
        assert compare([row], other).problem
    black, white = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert (compare(black, white).pixels, compare(white, white.astype(np.uint8) * 255).pixels) == (1.0, 0.0)
