"""What became of the output is added to an error by the function that writes."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxport
from onnxport.errors import OnnxPortError, OutputError, UsageError, nothing_written


def test_an_error_inside_tells_the_outcome() -> None:
    with pytest.raises(OutputError) as caught, nothing_written():
        raise OutputError("No space left.", hint="Free some space.")
    assert str(caught.value) == "No space left. Nothing was written.\nFree some space."
    assert caught.value.text == "No space left. Nothing was written." and caught.value.message == "No space left."


def test_the_innermost_outcome_counts() -> None:
    with pytest.raises(UsageError) as caught, nothing_written(), nothing_written("The old graph was kept."):
        raise UsageError("No.")
    assert str(caught.value) == "No. The old graph was kept."


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^no$"), nothing_written():
        raise ValueError("no")


def test_functions_that_write_say_it_and_those_that_read_do_not(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    writing = [
        lambda: onnxport.convert(None, absent, tmp_path / "out"),
        lambda: onnxport.convert_pytorch(None, None, tmp_path / "out"),
        lambda: onnxport.convert_tensorflow(None, None, tmp_path / "out"),
        lambda: onnxport.optimize(absent),
        lambda: onnxport.optimize(absent, for_="cpu"),
        lambda: onnxport.optimize(absent, sizes={"batch_size": 1}),
        lambda: onnxport.quantize(absent),
    ]
    for call in writing:
        with pytest.raises(OnnxPortError) as caught:
            call()
        assert caught.value.outcome == "Nothing was written.", caught.value
        assert str(caught.value).count("othing was written") == 1, caught.value
    with pytest.raises(OnnxPortError) as caught:
        onnxport.verify(absent)
    assert caught.value.outcome == ""
