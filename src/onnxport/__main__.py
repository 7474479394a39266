"""`python -m onnxport`, and the `onnxport` script, are the command line."""

from __future__ import annotations

import gc
import sys

from onnxport.cli.main import main


def program() -> int:
    """Run the command line as a process of its own; returns the exit code."""
    code = main()
    # Python collects cycles once more before it ends: a second spent on walking torch's objects
    # that the system takes back at once. Frozen objects are not walked.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(program())
