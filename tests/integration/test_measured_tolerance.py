"""Small mistakes in a float32 graph are found, and sound graphs pass, whatever the scale of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.torch import load_file, save_file

from onnxport import convert, load_graph_from_args
from onnxport.api.capture import CapturedGraph, capture_graphs
from onnxport.export.opset import DEFAULT
from onnxport.graph.write import WeightFiles, write_graphs
from onnxport.loading.model_to_export import from_pipeline
from onnxport.progress import Silent
from onnxport.specs import OutputCheck, Verification
from onnxport.system.timing import Stopwatch
from onnxport.verification.evidence import verify_graph
from onnxport.verification.tolerance import fixed_tolerance
from tests.tiny import save

pytestmark = pytest.mark.integration
BERT = "bert-feature-extraction"


def checks(verification: Verification) -> list[OutputCheck]:
    return [output for case in verification.cases for output in case.outputs]


@dataclass
class Written:
    captured: CapturedGraph
    file: Path

    def verify(self, change: Callable[[onnx.ModelProto], object]) -> Verification:
        model = onnx.load(self.file)
        change(model)
        changed = self.file.with_name("changed.onnx")
        onnx.save(model, changed)
        return verify_graph(changed, self.captured.evidence, self.captured.graph.signature.outputs)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    folder = tmp_path_factory.mktemp("bert")
    nlp = load_graph_from_args("feature-extraction", "pt", str(save(BERT, folder / "model")))
    (captured,) = capture_graphs(from_pipeline(nlp, "pt"), DEFAULT, Stopwatch(Silent()))
    with Silent().step("") as step:
        write_graphs([captured.graph], [folder / "model.onnx"], folder, WeightFiles(False), step)
    yield Written(captured, folder / "model.onnx")


def nodes(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    found = [node for node in model.graph.node if node.op_type == operator]
    assert found
    return found


def with_attribute(node: onnx.NodeProto, **values: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])


def another_epsilon(model: onnx.ModelProto) -> None:
    for node in nodes(model, "LayerNormalization"):
        with_attribute(node, epsilon=1e-5)


def another_gelu(model: onnx.ModelProto) -> None:
    for node in nodes(model, "Gelu"):
        with_attribute(node, approximate="tanh")


def ten_bits_of_mantissa(model: onnx.ModelProto) -> None:
    """As graphics processors round what they multiply, unless they are told not to (TF32)."""
    for weight in matrices(model):
        bits = numpy_helper.to_array(weight).view(np.uint32)
        rounded = ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
        weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))


def one_weight(model: onnx.ModelProto) -> None:
    times(matrices(model)[-1], (3, 5))


def matrices(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    used = {name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    return [weight for weight in model.graph.initializer if weight.name in used and len(weight.dims) == 2]


def times(weight: onnx.TensorProto, place: tuple[int, int]) -> None:
    numbers = numpy_helper.to_array(weight).copy()
    numbers[place] *= np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))


@pytest.mark.parametrize("mistake", [another_epsilon, another_gelu, ten_bits_of_mantissa, one_weight])
def test_a_mistake_is_found(bert: Written, mistake: Callable[[onnx.ModelProto], None]) -> None:
    assert not bert.verify(mistake).passed


def test_one_number_of_a_word_that_was_read_is_found(bert: Written) -> None:
    word = int(bert.captured.evidence.cases[2].inputs["input_ids"][1, 5])

    def change(model: onnx.ModelProto) -> None:
        tables = [w for w in model.graph.initializer if any(w.name == node.input[0] for node in nodes(model, "Gather"))]
        times(max(tables, key=lambda table: table.dims[0] if len(table.dims) == 2 else 0), (word, 7))

    found = bert.verify(change)
    assert [case.ok for case in found.cases].count(False) >= 1
    assert not found.cases[2].ok


def test_the_sound_graph_is_as_good_as_its_source(bert: Written) -> None:
    found = bert.verify(lambda _: None)
    assert found.passed
    for check in checks(found):
        assert check.method == "float64" and check.source_error is not None and check.graph_error is not None
        assert check.tolerance < fixed_tolerance("float32", check.scale) / 5
        assert check.judged_error < check.tolerance / 2


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_weights_of_any_scale(tmp_path: Path, scale: float) -> None:
    model = save(BERT, tmp_path / "model")
    file = model / "model.safetensors"
    weights = {name: value * scale if value.ndim > 1 else value for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    (component,) = convert("pt", model, tmp_path / "out").manifest.components
    assert component.verification is not None and component.verification.passed
    assert {check.method for check in checks(component.verification)} == {"float64"}
