"""Sessions for verification: the weights of a large model stay in their file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.dummy_inputs.base import Arrays
from onnxport.system.threads import worth_threads
from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    from onnxport.runtime.session import OnnxSession
    from onnxport.verification.cases import Case


# A session copies the weights once or twice; up to this size nobody notices.
MAPPED_FROM_BYTES = 2**28


def session_for(path: Path, cases: Sequence[Case] = ()) -> OnnxSession:
    """A session on a graph file; the weights of a large model stay in their file.

    A packed copy could need more memory than there is.

    Args:
        cases: what it will run, if that is known: on one thread where more would not help.

    Raises:
        FolderError: ONNX Runtime refuses the graph.
    """
    from onnxport.runtime.session import OnnxSession

    size = graph_bytes(path)
    # Weights of eight bits or four are more parameters than this says, and the quicker read.
    work = size / 4 * max((_elements(case.inputs) for case in cases), default=0)
    threads = None if not cases or worth_threads(size, work) else 1
    return OnnxSession(path, threads=threads, map_weights=size >= MAPPED_FROM_BYTES)


def _elements(inputs: Arrays) -> int:
    """Of the largest input that passes through the weights: a past does not."""
    return max((value.size for name, value in inputs.items() if not is_past(name)), default=0)


def graph_bytes(path: Path) -> int:
    """Size of a graph file with its data."""
    from onnxport.artifact.data_files import data_files

    return sum(file.stat().st_size for file in (path, *data_files(path)) if file.exists())


def is_large(path: Path) -> bool:
    return graph_bytes(path) >= MAPPED_FROM_BYTES
