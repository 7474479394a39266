"""Fixtures of the tests that convert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli_runner import refusal, run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Called with arguments of `onnxport convert`, and with what must not be written: what stderr says."""

    def call(*arguments: str | Path, writes: Path) -> str:
        return refusal(run(capsys, "convert", *arguments), writes)

    return call
