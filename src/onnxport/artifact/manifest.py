"""The manifest `onnxport.json`: what a folder holds, and the evidence that it is right.

Plain dataclasses, nothing here imports a framework. `manifest_json.py` reads and writes them,
`schema.json` is their JSON schema; `SCHEMA_VERSION` changes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxport.specs import Restriction, TensorSpec, Verification

SCHEMA_VERSION = 1
MANIFEST_NAME = "onnxport.json"
# Weights beside the graph model.onnx are in model.onnx_data, and further ones in model.onnx_data_1 ...
DATA_SUFFIX = "_data"


@dataclass(frozen=True)
class WeightsChecksum:
    """Of the weights in a graph's data files: each has a checksum, in a file of its own, since there may be thousands.

    The checksums were computed from the bytes as they came from the source.
    """

    algorithm: str  # "crc32"
    count: int  # number of weights
    bytes: int  # of all these weights together, without what lies between them
    file: str  # where they are, relative to the folder: "onnx/model.weights.json"


@dataclass(frozen=True)
class Component:
    """One ONNX graph of the folder."""

    name: str  # "model", "model_quantized"
    file: str  # relative to the folder, "/" separated: "onnx/model.onnx"
    opset: int
    precision: str  # "float32", "int8", "int4", "int8-weights"
    parameters: int  # number of weight elements
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    restrictions: tuple[Restriction, ...] = ()
    verification: Verification | None = None
    fixes: tuple[str, ...] = ()  # names of registered export fixes that were applied
    operators: dict[str, int] = field(default_factory=dict)  # "MatMul" or "com.microsoft.Attention" -> number of nodes
    size_bytes: int = 0  # graph file and data files together
    data_files: tuple[str, ...] = ()  # weights beside the graph, relative to the folder: "onnx/model.onnx_data"
    weights_checksum: WeightsChecksum | None = None  # of the weights in `data_files`


@dataclass(frozen=True)
class Manifest:
    """The whole of `onnxport.json`."""

    task: str
    framework: str  # "pt" or "tf"
    source: str  # the model name or folder name as given, never an absolute path
    architecture: str  # class that was exported: "BertForMaskedLM"
    versions: dict[str, str]  # onnxport, torch, transformers, onnx, onnxruntime ...
    components: tuple[Component, ...]
    files: dict[str, str] = field(default_factory=dict)  # relative path -> sha256 hex digest
    notes: tuple[str, ...] = ()  # what a user must know: "no tokenizer in the checkpoint"
    schema_version: int = SCHEMA_VERSION
