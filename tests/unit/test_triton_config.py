"""config.pbtxt, read by Triton's own message."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from onnxport.artifact.manifest import Component
from onnxport.errors import UsageError
from onnxport.specs import Limit, Restriction, TensorSpec
from onnxport.targets.triton_config import TritonModel, config_text
from tests.unit.sample_manifest import make_manifest

text_format = pytest.importorskip("google.protobuf.text_format")
model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")

IDS = TensorSpec("input_ids", "int64", ("batch_size", "sequence_length"))


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config.ModelConfig())


def model(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...], **changes: Any) -> TritonModel:
    component: Component = dataclasses.replace(make_manifest().components[0], **changes)
    return TritonModel("tiny", "model.onnx", component, inputs, outputs)


def test_rows_are_batched_where_every_tensor_begins_with_them() -> None:
    score = TensorSpec("score", "float16", ("batch_size",))
    logits = TensorSpec("logits", "float32", ("batch_size", "sequence_length + 1", 5))
    config = parsed(config_text(model(IDS, outputs=(score, logits), restrictions=())))
    assert (config.name, config.backend, config.default_model_filename) == ("tiny", "onnxruntime", "model.onnx")
    assert config.max_batch_size == 32 and config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in config.input] == [[-1]]
    assert [list(tensor.dims) for tensor in config.output] == [[1], [-1, 5]]
    assert config.output[0].HasField("reshape") and not config.output[0].reshape.shape  # rows alone
    assert [tensor.data_type for tensor in config.output] == [model_config.TYPE_FP16, model_config.TYPE_FP32]
    assert [(group.count, group.kind) for group in config.instance_group] == [
        (1, model_config.ModelInstanceGroup.KIND_AUTO)
    ]


@pytest.mark.parametrize(
    "further",
    [
        TensorSpec("count", "int64", ()),  # no axes
        TensorSpec("position_ids", "int64", (3, "batch_size", "sequence_length")),  # rows are not the first axis
        TensorSpec("pixel_values", "float32", ("num_images", 3, 32, 32)),  # other rows
    ],
)
def test_other_graphs_are_not_batched(further: TensorSpec) -> None:
    config = parsed(config_text(model(IDS, further, outputs=(IDS,), restrictions=())))
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [-1, -1]
    assert list(config.input[1].dims) == [axis if isinstance(axis, int) else -1 for axis in further.axes or (1,)]
    assert config.input[1].HasField("reshape") == (not further.axes)


@pytest.mark.parametrize(("limit", "rows"), [(Limit.AT_MOST, 4), (Limit.MULTIPLE, 0)])
def test_restrictions_of_the_batch_are_kept(limit: Limit, rows: int) -> None:
    rule = Restriction("batch_size", limit, 4, "the model says so")
    assert parsed(config_text(model(IDS, outputs=(IDS,), restrictions=(rule,)))).max_batch_size == rows


def test_the_profile_for_tensorrt_is_of_verified_sizes() -> None:
    text = config_text(model(IDS, outputs=(IDS,), restrictions=()))
    marked = text.index("# optimization")
    config = parsed(text[:marked] + "\n".join(line.removeprefix("#") for line in text[marked:].splitlines()))
    [accelerator] = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    sizes = [accelerator.parameters[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    known = {case.sizes["sequence_length"] for case in make_manifest().components[0].verification.cases if case.ok}
    assert sizes[0].startswith("input_ids:") and sizes[-1] == f"input_ids:32x{max(known)}"


def test_a_type_that_triton_does_not_have() -> None:
    with pytest.raises(UsageError, match="float8"):
        config_text(model(TensorSpec("x", "float8e4m3fn", (2,)), outputs=(IDS,)))
