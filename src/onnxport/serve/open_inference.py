"""Tensors of the Open Inference Protocol, version 2, in JSON.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxport.artifact.manifest import Component
from onnxport.errors import UsageError
from onnxport.serve.jobs import Job
from onnxport.serve.values import to_json
from onnxport.specs import TensorSpec

_NAMES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "object": "BYTES", "str": "BYTES", "string": "BYTES",
}  # fmt: skip
_TYPES = {name: dtype for dtype, name in _NAMES.items() if name != "BYTES"}
TEXT, _EMBEDDING = "text", "sentence_embedding"
_INTEGERS = ("INT", "UINT")


def describe(component: Component, versions: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a model; -1 is an axis of any size."""
    return {
        "name": component.name,
        "versions": ["1"],
        "platform": f"onnxruntime_{versions.get('onnxruntime', 'onnx')}",
        "inputs": [_describe(spec) for spec in component.inputs],
        "outputs": [_describe(spec) for spec in component.outputs],
    }


def _describe(spec: TensorSpec) -> dict[str, Any]:
    shape = [axis if isinstance(axis, int) else -1 for axis in spec.axes]
    return {"name": spec.name, "datatype": _NAMES.get(spec.dtype, spec.dtype.upper()), "shape": shape}


def read_inputs(body: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a request, and the names of the outputs that it wants; none means all.

    Raises:
        UsageError: not a request of the protocol; says what is wrong with which input.
    """
    tensors = body.get("inputs") if isinstance(body, Mapping) else None
    if not isinstance(tensors, list) or not all(isinstance(one, Mapping) for one in tensors):
        raise UsageError(
            "The request has no list of inputs.",
            hint='{"inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}]}',
        )
    arrays = {str(one.get("name")): _read(one) for one in tensors}
    outputs = body.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(one, Mapping) and "name" in one for one in outputs):
        raise UsageError("outputs is no list of names.", hint='"outputs": [{"name": "logits"}]')
    return arrays, [str(one["name"]) for one in outputs]


def are_texts(arrays: Mapping[str, np.ndarray], graph: Mapping[str, Any]) -> bool:
    """Whether a request has texts for the task, in the place of the graph's own inputs."""
    return set(arrays) == {TEXT} and all(one["name"] != TEXT for one in graph["inputs"])


def job_of_texts(arrays: Mapping[str, np.ndarray], graph: Mapping[str, Any], parameters: Any) -> Job:
    """The job for the texts of a request: embeddings if the graph has them, else the task."""
    texts = [str(one) for one in arrays[TEXT].reshape(-1)]
    settings = dict(parameters) if isinstance(parameters, Mapping) else {}
    return Job("embed" if any(one["name"] == _EMBEDDING for one in graph["outputs"]) else "call", texts, settings)


def answers(job: Job, value: Any) -> dict[str, np.ndarray]:
    """Embeddings (texts, width), or the answer of the task for each text as JSON (texts,)."""
    if value is None or job.kind == "embed":
        return {} if value is None else {_EMBEDDING: np.asarray(value, np.float32)}
    written = [json.dumps(to_json(one), ensure_ascii=False) for one in value]
    return {"answer": np.array(written, dtype=object)}


def _read(tensor: Mapping[str, Any]) -> np.ndarray:
    name, shape, datatype = tensor.get("name"), tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not all(isinstance(size, int) and 0 <= size < 2**31 for size in shape):
        raise UsageError(f"The shape of {name} is {shape!r}.", hint='"shape": [1, 3]')
    if datatype == "BYTES":
        array = np.array(tensor.get("data"), dtype=object)
    else:
        if datatype not in _TYPES:
            raise UsageError(f"The datatype of {name} is {datatype!r}.", hint=f"Use {', '.join(_TYPES)} or BYTES.")
        try:
            array = np.asarray(tensor.get("data"))
        except ValueError as error:
            raise UsageError(f"The data of {name} is ragged.", hint="Give a flat list of numbers.") from error
        array = _cast(array, datatype, str(name))
    if array.size != np.prod(shape, dtype=np.int64):
        raise UsageError(f"{name} has {array.size} values, and its shape {shape} has {np.prod(shape)}.", hint="")
    return array.reshape(shape)


def _cast(array: np.ndarray, datatype: str, name: str) -> np.ndarray:
    wanted = np.dtype(_TYPES[datatype])
    fits = array.size == 0 or (
        array.dtype.kind in "biu" if datatype.startswith(_INTEGERS) else array.dtype.kind in "biuf"
    )
    if datatype == "BOOL":
        fits = array.size == 0 or array.dtype.kind == "b" or (array.dtype.kind == "i" and set(array.flat) <= {0, 1})
    if fits and datatype.startswith(_INTEGERS) and array.size:
        limits = np.iinfo(wanted)
        fits = limits.min <= int(array.min()) and int(array.max()) <= limits.max
    if not fits:
        raise UsageError(f"The data of {name} is not {datatype}.", hint=f"Give numbers that fit into {wanted}.")
    return array.astype(wanted)


def write_outputs(model: str, outputs: Mapping[str, np.ndarray], request_id: str | None) -> dict[str, Any]:
    """The response for the outputs of a graph."""
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": _NAMES.get(str(array.dtype), "BYTES"),
            "data": to_json(array.reshape(-1)),
        }
        for name, array in outputs.items()
    ]
    return {"model_name": model, "model_version": "1", **({"id": request_id} if request_id else {}), "outputs": tensors}
