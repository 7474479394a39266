"""The manifest `onnxport.json`: what a folder holds, and the evidence that it is right.

Plain dataclasses, nothing here imports a framework. `manifest_json.py` reads and writes them,
`schema.json` is their JSON schema; `SCHEMA_VERSION` changes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxport.artifact.ledger import Ledger, UnusedTensors
from onnxport.artifact.tuning import Calibration, Loss, Tuning
from onnxport.specs import Restriction, TensorSpec, Verification

# 2: every graph says which one it was made from (`Component.derived_from`).
# 3: every graph has a ledger of its weights, and the manifest names what no graph holds.
SCHEMA_VERSION = 3
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
    precision: str  # "float32", or one of `graph.quantization.quantize.PRECISIONS`
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
    derived_from: str | None = None  # name of the graph that this one was made from; None: converted from the source
    ledger: Ledger | None = None  # what its weights hold, and how that was proved
    raised_weights: tuple[str, ...] = ()  # that have more bits in a graph of 4, the most sensitive first
    calibration: Calibration | None = None  # of a graph whose activations have static scales
    loss: Loss | None = None  # against the graph that it was made from, on samples that did not calibrate it


@dataclass(frozen=True)
class ComparedAnswer:
    """What the source and the folder answered to one input, as text for people."""

    input: str
    source: str
    folder: str
    equal: bool


@dataclass(frozen=True)
class FolderRun:
    """The folder, loaded as a user loads it, against the source pipeline."""

    through: str  # what ran it: "onnxport.pipeline", "onnxport.runtime.session.OnnxSession"
    inputs: int  # number of inputs that both answered
    equal: bool  # every answer, and every value of configs, tokenizer and processors
    near_ties: int = 0  # answers that differ in a choice that is too close for rounding; they count as equal
    differences: tuple[str, ...] = ()
    # What onnxport.pipeline refuses, and transformers' pipeline over this folder can do.
    run_time_differences: tuple[str, ...] = ()
    answers: tuple[ComparedAnswer, ...] = ()  # to the first inputs, and all that differ


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
    unused: UnusedTensors | None = None  # of the checkpoint and the model, what no graph holds
    folder_run: FolderRun | None = None
    tuning: Tuning | None = None  # of `optimize` with a budget, the last run
    schema_version: int = SCHEMA_VERSION

    def find(self, name: str | None) -> Component | None:
        """The graph of that name, or None."""
        return next((component for component in self.components if component.name == name), None)

    def converted(self) -> tuple[Component, ...]:
        """The graphs that were converted from the source, without those that were made from them."""
        return tuple(component for component in self.components if component.derived_from is None)

    def origin(self, component: Component) -> Component:
        """The converted graph that `component` was made from, in one step or several; for such a graph, itself."""
        while (base := self.find(component.derived_from)) is not None:
            component = base
        return component

    def counterpart(self, component: Component, name: str) -> Component | None:
        """The graph that was made from the converted graph `name` as `component` was made from its own.

        Of a decoder "decoder_model_merged_q4" and "encoder_model" that is "encoder_model_q4", or "encoder_model"
        where the folder has no such graph; None where it does not have that either.
        """
        ending = component.name.removeprefix(self.origin(component).name)
        found = self.find(name + ending)
        return found if found is not None and self.origin(found).name == name else self.find(name)
