"""Values inside a graph: run it with more outputs than it has.

numpy and onnxruntime only. The graph's bytes get further outputs at their end (protobuf merges a message that occurs
twice), so neither onnx nor a rewritten file is needed, and large weights stay mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.errors import FolderError
from onnxport.formats.graph_file import read_graph_file
from onnxport.formats.protobuf_wire import field_bytes
from onnxport.runtime.mapped_weights import graph_without_weights
from onnxport.system.library_errors import first_line

_GRAPH, _OUTPUT, _NAME = 7, 12, 1  # field numbers of onnx.proto
_GROUP, _GROUP_BYTES = 256, 2**28  # values of a first session; bytes that the values of one session may take

Arrays = dict[str, np.ndarray]


def graph_values(file: Path, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[Arrays]:
    """Run the graph and give the values `names` in groups, as many at a time as memory allows.

    Args:
        file: the graph.
        inputs: arrays for its inputs; others are ignored.
        names: of values that nodes give; the graph's outputs too.

    Yields:
        Arrays by name. Values that are no tensors are left out.

    Raises:
        FolderError: ONNX Runtime cannot load the graph, or cannot run it on these inputs.
    """
    content = graph_without_weights(file) or file.read_bytes()
    outputs = frozenset(read_graph_file(file).outputs)
    position, size = 0, _GROUP
    while position < len(names):
        group = names[position : position + size]
        found = _run(content, file, inputs, group, outputs)
        yield found
        position += size
        taken = sum(value.nbytes for value in found.values())
        size = max(1, min(_GROUP, int(_GROUP_BYTES / max(taken, 1) * len(group))))


def _run(
    content: bytes, file: Path, inputs: Mapping[str, np.ndarray], names: Sequence[str], outputs: frozenset[str]
) -> Arrays:
    import onnxruntime

    more = b"".join(field_bytes(_OUTPUT, field_bytes(_NAME, name.encode())) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    folder = str(file.parent.resolve())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session: Any = onnxruntime.InferenceSession(
            content + field_bytes(_GRAPH, more), sess_options=options, providers=["CPUExecutionProvider"]
        )
        known = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
        values = session.run(list(names), {name: array for name, array in inputs.items() if name in known})
    except Exception as error:
        raise FolderError(f"ONNX Runtime cannot run {file.name} with more outputs: {first_line(error)}.") from error
    found = zip(names, values, strict=True)
    return {name: value for name, value in found if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"}
