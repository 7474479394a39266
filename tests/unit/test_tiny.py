"""The factory of tiny checkpoints gives the same bytes for the same seed, and other weights for another."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tests.tiny import TINY, save


def test_every_row_is_named_after_its_task() -> None:
    assert all(name.endswith(tiny.task) or name.startswith("sentence-") for name, tiny in TINY.items())


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    name = "sentence-bert-cls-dense"  # the row with most files: model, tokenizer, modules, a second weights file
    first, again = save(name, tmp_path / "first"), save(name, tmp_path / "again")
    other = save(name, tmp_path / "other", seed=1)
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert {path.name for path in files} >= {"config.json", "model.safetensors", "tokenizer.json", "modules.json"}
    assert all((first / path).read_bytes() == (again / path).read_bytes() for path in files)
    changed = [path.as_posix() for path in files if (first / path).read_bytes() != (other / path).read_bytes()]
    assert changed == ["2_Dense/model.safetensors", "model.safetensors"]
