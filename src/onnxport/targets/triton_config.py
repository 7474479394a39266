"""`config.pbtxt` of one graph: the text form of Triton's message ModelConfig.

Fields and their meaning: docs/user_guide/model_configuration.md of the Triton server, and README.md of its ONNX Runtime
backend for what it gives to TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxport.artifact.manifest import Component
from onnxport.axes import evaluate
from onnxport.errors import UsageError
from onnxport.specs import Limit, TensorSpec

_TYPES = {
    "bool": "TYPE_BOOL", "str": "TYPE_STRING", "bfloat16": "TYPE_BF16", "float16": "TYPE_FP16", "float32": "TYPE_FP32",
    "float64": "TYPE_FP64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32", "uint64": "TYPE_UINT64",
}  # fmt: skip
_MOST_ROWS = 32  # of a batch, where the graph takes any number
_DELAY = 100  # microseconds that a request waits for others, the value of Triton's own example


@dataclass(frozen=True)
class TritonModel:
    """One graph as a model of a Triton repository.

    Attributes:
        name: of the model, and of its folder.
        file: of the graph, in the folder of its version.
        component: its entry in the manifest: verified sizes and restrictions.
        inputs: without those that have a default, which Triton cannot give.
        outputs: in the graph's order.
    """

    name: str
    file: str
    component: Component
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batch_axis(self) -> str | None:
        """The dynamic axis that comes first in every input and output; None if there is no such axis."""
        first = {spec.axes[0] if spec.axes else 0 for spec in (*self.inputs, *self.outputs)}
        name = first.pop() if len(first) == 1 else 0
        return name if isinstance(name, str) and name.isidentifier() else None

    @property
    def most_rows(self) -> int:
        """`max_batch_size`: 0 if Triton cannot put requests together."""
        if self.batch_axis is None:
            return 0
        rules = [rule for rule in self.component.restrictions if rule.axis == self.batch_axis]
        if any(rule.limit not in (Limit.AT_MOST, Limit.NOTE) for rule in rules):
            return 0
        return min([_MOST_ROWS, *(int(rule.operand) for rule in rules if rule.limit is Limit.AT_MOST)])


def config_text(model: TritonModel) -> str:
    """The whole config.pbtxt.

    Raises:
        UsageError: the graph has a type of numbers that Triton does not have.
    """
    rows = model.most_rows
    lines = [
        f"name: {json.dumps(model.name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {json.dumps(model.file)}",
        *(["# Every input and output begins with the axis " + str(model.batch_axis) + "."] if rows else []),
        f"max_batch_size: {rows}",
        *tensors("input", model.inputs, batched=rows > 0),
        *tensors("output", model.outputs, batched=rows > 0),
        # Triton chooses a GPU where there is one.
        "instance_group [ { count: 1 kind: KIND_AUTO } ]",
    ]
    if rows:
        lines += [
            "# Only requests whose other axes have the same sizes become one batch.",
            f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY} }}",
        ]
    return "\n".join([*lines, *_tensorrt(model)]) + "\n"


def tensors(kind: str, specs: Sequence[TensorSpec], *, batched: bool) -> Iterator[str]:
    """The lines of the inputs or outputs of a model.

    Args:
        kind: "input" or "output".
        specs: the tensors.
        batched: the first axis is the batch, which Triton leaves out.

    Raises:
        UsageError: a type of numbers that Triton does not have.
    """
    yield f"{kind} ["
    for place, spec in enumerate(specs):
        if spec.dtype not in _TYPES:
            raise UsageError(
                f"Triton has no type for {spec.name}, which is {spec.dtype}.",
                hint="onnxport.runtime runs the folder: `onnxport run FOLDER`.",
            )
        axes = spec.axes[1:] if batched else spec.axes
        dims = [axis if isinstance(axis, int) else -1 for axis in axes]
        # A tensor without axes is [1] in a request: docs, "Reshape".
        shape = "" if dims else " reshape: { shape: [ ] }"
        comma = "," if place + 1 < len(specs) else ""
        names = f"  # {' '.join(', '.join(map(str, axes)).split())}" if -1 in dims else ""
        values = f"data_type: {_TYPES[spec.dtype]} dims: [ {', '.join(map(str, dims or [1]))} ]{shape}"
        yield f"  {{ name: {json.dumps(spec.name)} {values} }}{comma}{names}"
    yield "]"


def _tensorrt(model: TritonModel) -> Iterator[str]:
    """TensorRT as a comment: it needs a GPU, and a build of Triton's backend with it."""
    dynamic = {axis for spec in model.inputs for axis in spec.axes if isinstance(axis, str)}
    if not dynamic or any(spec.dtype == "str" for spec in model.inputs):
        return
    yield "# To run on TensorRT, remove the # of these lines; the profile has the verified sizes of the named axes."
    yield "# optimization { execution_accelerators { gpu_execution_accelerator: [ {"
    yield '#   name: "tensorrt"'
    yield '#   parameters { key: "precision_mode" value: "FP32" }'
    yield '#   parameters { key: "trt_engine_cache_enable" value: "true" }'
    for which, pick in (("min", 0), ("opt", 1), ("max", 2)):
        shapes = ",".join(_profile(model, sorted(dynamic), pick))
        yield f'#   parameters {{ key: "trt_profile_{which}_shapes" value: {json.dumps(shapes)} }}'
    yield "# } ] } }"


def _profile(model: TritonModel, axes: Iterable[str], pick: int) -> Iterator[str]:
    """`name:2x7` of every input, at the smallest, the usual or the largest sizes."""
    sizes = {axis: _range(model, axis)[pick] for axis in axes if axis.isidentifier()}
    for spec in model.inputs:
        shape = [axis if isinstance(axis, int) else evaluate(axis, sizes) for axis in spec.axes]
        if shape:
            yield f"{spec.name}:{'x'.join(map(str, shape))}"


def _range(model: TritonModel, axis: str) -> tuple[int, int, int]:
    """Smallest, usual and largest size of an axis: those that were verified, and what a batch may be."""
    cases = model.component.verification.cases if model.component.verification else ()
    known = sorted({case.sizes[axis] for case in cases if case.ok and axis in case.sizes}) or [1, 8]
    if axis == model.batch_axis and model.most_rows:
        known = [size for size in known if size <= model.most_rows] + [model.most_rows]
    return known[0], known[len(known) // 2], known[-1]
