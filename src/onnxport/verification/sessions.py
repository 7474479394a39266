"""Sessions for verification: on as many threads as the cases are worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.artifact.data_files import graph_bytes
from onnxport.system.threads import worth_threads
from onnxport.verification.case import elements

if TYPE_CHECKING:
    from onnxport.runtime.session import OnnxSession
    from onnxport.verification.case import Case


def session_for(path: Path, cases: Sequence[Case] = ()) -> OnnxSession:
    """A session on a graph file.

    Args:
        cases: what it will run, if that is known: on one thread where more would not help.

    Raises:
        FolderError: ONNX Runtime refuses the graph.
    """
    from onnxport.runtime.session import OnnxSession

    size = graph_bytes(path)
    # Weights of eight bits or four are more parameters than this says, and the quicker read.
    work = size / 4 * max((elements(case.inputs) for case in cases), default=0)
    threads = None if not cases or worth_threads(size, work) else 1
    return OnnxSession(path, threads=threads)
