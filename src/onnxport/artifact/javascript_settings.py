"""What config.json says to other run times, so that they need no option: transformers.js, text-embeddings-inference.

In a browser transformers.js looks for int8 graphs unless it is told another dtype, and for weights beside a graph only
if it is told in how many files they are: https://huggingface.co/docs/transformers.js/api/configs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.artifact.card_calls import javascript_dtype
from onnxport.artifact.data_files import data_files
from onnxport.artifact.embedding_server import additions
from onnxport.formats.json_file import read_object

CONFIG = "config.json"
SETTINGS = "transformers.js_config"
_DTYPE, _DATA_FILES = "dtype", "use_external_data_format"
_MAIN = "fp32"  # finds the graphs without a suffix, whatever their type


def write_javascript_settings(root: Path) -> bool:
    """Put them into config.json of the folder `root`, in the place of older ones; True if the file has changed.

    A file that is a link to that of another folder is replaced, so that the other stays as it is. Nothing is written
    without a config.json, or where transformers.js would find no graph.

    Raises:
        OSError: config.json cannot be written.
    """
    file = root / CONFIG
    graphs = sorted((root / "onnx").glob("*.onnx"))
    known = [graph for graph in graphs if javascript_dtype(f"onnx/{graph.name}") is not None]
    if not file.is_file() or not known:
        return False
    config = read_object(file)
    counts = {graph.name: len(found) for graph in graphs if (found := data_files(graph))}
    settings = {name: value for name, value in (config.get(SETTINGS) or {}).items() if name != _DATA_FILES}
    config |= additions(config)
    config[SETTINGS] = {**settings, _DTYPE: _MAIN, **({_DATA_FILES: counts} if counts else {})}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    if file.read_bytes() == text.encode():
        return False
    file.unlink()
    file.write_text(text, encoding="utf-8", newline="\n")
    return True


def without_javascript_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without them."""
    return {name: value for name, value in config.items() if name != SETTINGS}
