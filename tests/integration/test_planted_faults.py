"""Faults of benchmarks/faults.py in one model: none is published, and the sound model is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.sweep
@pytest.mark.timeout(900)
def test_no_fault_in_a_text_encoder_is_published(tmp_path: Path) -> None:
    found = tmp_path / "faults.json"
    command = [sys.executable, "benchmarks/faults.py", "--only", "bert-fill-mask", "--work", str(tmp_path)]
    done = subprocess.run([*command, "--json", str(found)], cwd=ROOT, capture_output=True, text=True)
    outcomes = {result["fault"]: result["outcome"] for result in json.loads(found.read_text())}
    assert outcomes.pop("bert-fill-mask: sound") == "sound"
    assert len(outcomes) >= 4
    assert set(outcomes.values()) == {"caught"}, outcomes
    assert done.returncode == 0
