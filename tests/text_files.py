"""Mends text files as a command: no spaces at line ends, one newline at the end.

    python -m tests.text_files FILE ...

Prints the files that it changed, and exits with 1 if there are any.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def mended(text: str) -> str:
    """`text` with no spaces at line ends and one newline at its end."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n")
    return f"{text}\n" if text else ""


def main(files: list[str]) -> int:
    """Mend the files; 1 if there was anything to mend."""
    changed = 0
    for file in map(Path, files):
        text = file.read_text(encoding="utf-8")
        if (new := mended(text)) != text:
            file.write_text(new, encoding="utf-8")
            print(f"mended {file}")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
