"""Texts as files: what the command line prints, compared with tests/snapshots/*.txt.

`make snapshots` writes the files again; read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "snapshots"
UPDATE = "UPDATE_SNAPSHOTS"


def check_snapshot(name: str, text: str) -> None:
    """Compare `text` with tests/snapshots/NAME.txt, or write that file with UPDATE_SNAPSHOTS=1."""
    file, text = FOLDER / f"{name}.txt", text.rstrip("\n") + "\n"
    if os.environ.get(UPDATE):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    assert file.is_file(), f"{file.name} is missing: run `make snapshots`"
    assert text == file.read_text(encoding="utf-8"), f"{file.name} differs: run `make snapshots` and read the change"
