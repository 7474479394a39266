"""`python -m onnxport`, and the `onnxport` script, are the command line."""

from __future__ import annotations

import gc
import os
import sys

from onnxport.cli.main import ended_early, main
from onnxport.system.supervision import supervised

# Commands that run code of libraries on files of somebody else.
_WATCHED = frozenset({"convert", "run", "verify", "optimize", "quantize", "target", "compare", "report", "batch"})


def program() -> int:
    """Run the command line as a process of its own; returns the exit code."""
    if _WATCHED.isdisjoint(sys.argv[1:2]):
        return _command()
    return supervised(_command, ended_early)


def _command() -> int:
    _keep_stdout()
    code = main()
    # Python collects cycles once more before it ends: a second spent on walking torch's objects
    # that the system takes back at once. Frozen objects are not walked.
    gc.freeze()
    return code


def _keep_stdout() -> None:
    """Give stdout to `sys.stdout` alone: what C++ code writes there (a `tf.print` in a model) goes to stderr.

    Data on stdout would no longer be a JSON document with it.
    """
    try:
        if sys.stdout.fileno() != 1:
            return
        kept = os.dup(1)
        os.dup2(2, 1)
    except (AttributeError, OSError, ValueError):  # there is none, or no stderr
        return
    sys.stdout = open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: SIM115, PTH123 - for good


if __name__ == "__main__":
    sys.exit(program())
