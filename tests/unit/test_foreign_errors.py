"""What is shown of the messages of other libraries."""

from __future__ import annotations

import pytest

from onnxport.system.library_errors import first_line


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Shapes differ.\nStack trace: ...", "Shapes differ"),
        ("", "ValueError"),
        ("Exception encountered when calling Dense.call().\n\nExpected axis -1 to be 4.", "Expected axis -1 to be 4"),
        ("A tensor is no bool. You can attempt: " + "read this. " * 40, None),
        ("x" * 400, "x" * 300 + " ..."),
    ],
)
def test_first_line(message: str, shown: str | None) -> None:
    found = first_line(ValueError(message))
    if shown is None:
        assert found.startswith("A tensor is no bool. You can attempt: read this") and len(found) <= 300
        assert found.endswith("read this")
    else:
        assert found == shown
