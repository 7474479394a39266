"""Graph files: equal to what onnx_ir.save writes, readable by everybody, and written in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxport.errors import ExportError, MissingDependencyError, OutputError
from onnxport.formats.protobuf_wire import varint
from onnxport.serialization.onnxfile import needs_external, write_model
from tests.unit.graphs import check_hashes, model_of, run, tensor, values_of

RNG = np.random.default_rng(0)
TENSORS: dict[str, ir.TensorProtocol] = {
    "float32": tensor(RNG.standard_normal((40, 30)).astype(np.float32)),
    "float64": tensor(RNG.standard_normal((40, 30))),
    "float16": tensor(RNG.standard_normal((40, 30)).astype(np.float16)),
    "bfloat16": tensor(RNG.standard_normal((40, 30)).astype(ml_dtypes.bfloat16)),
    "float8": tensor(RNG.standard_normal((40, 30)).astype(ml_dtypes.float8_e4m3fn)),
    "int64": tensor(RNG.integers(-(2**62), 2**62, (7, 40))),
    "bool": tensor(RNG.integers(0, 2, (33, 50)).astype(bool)),
    "complex64": tensor((RNG.standard_normal(300) + 1j).astype(np.complex64)),
    "int4": tensor(RNG.integers(-8, 8, (33, 101)).astype(ml_dtypes.int4)),
    "packed uint4": ir.PackedTensor(
        RNG.integers(0, 256, 2000).astype(np.uint8), ir.DataType.UINT4, shape=ir.Shape([40, 100]), name="w"
    ),
    "transposed": tensor(RNG.standard_normal((60, 70, 3)).astype(np.float32).transpose(2, 0, 1)),
    "strided": tensor(RNG.standard_normal((60, 70)).astype(np.float32)[::2, 1::3]),
    "reversed": tensor(np.arange(2000)[::-1]),
    "lazy": ir.LazyTensor(
        lambda: tensor(np.ones((20, 20), np.float32)), ir.DataType.FLOAT, ir.Shape([20, 20]), name="w"
    ),
    "string": ir.StringTensor([b"a", "\N{SNOWMAN}".encode() * 600], shape=ir.Shape([2]), name="w"),
    "empty": tensor(np.zeros((0, 5), np.float32)),
    "scalar": tensor(np.array(3, np.int64)),
    "small": tensor(np.arange(5, dtype=np.float32)),
    "from protobuf": ir.from_proto(onnx.numpy_helper.from_array(np.arange(999, dtype=np.float32), "w")),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_embedded_is_byte_for_byte_what_onnx_ir_writes(kind: str, tmp_path: Path) -> None:
    model = model_of(TENSORS[kind])
    written = write_model(model, tmp_path / "ours.onnx", external=False)
    assert written.files == (tmp_path / "ours.onnx",)
    check_hashes(tmp_path, written)
    ir.save(model, tmp_path / "theirs.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    onnx.load(tmp_path / "ours.onnx")
    if kind not in ("complex64", "float8"):  # types that ONNX Runtime does not take at all
        assert run(tmp_path / "ours.onnx").tolist() == [2, 4]


@pytest.mark.parametrize("kind", TENSORS)
def test_external_has_the_same_values(kind: str, tmp_path: Path) -> None:
    model = model_of(TENSORS[kind])
    written = write_model(model, tmp_path / "m.onnx", external=True)
    check_hashes(tmp_path, written)
    large = TENSORS[kind].nbytes >= 1024 and kind != "string"
    assert [file.name for file in written.files] == (["m.onnx", "m.onnx_data"] if large else ["m.onnx"])
    assert values_of(ir.load(tmp_path / "m.onnx")) == values_of(model)
    for initializer in onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer:
        for entry in initializer.external_data:
            if entry.key == "location":
                assert entry.value == "m.onnx_data"
    if kind not in ("complex64", "float8"):
        assert run(tmp_path / "m.onnx").tolist() == [2, 4]


def test_all_together_and_the_order_stays(tmp_path: Path) -> None:
    model = model_of()
    for index, (kind, source) in enumerate(TENSORS.items()):
        copy = source if kind != "scalar" else tensor(np.array(3), "scalar")
        value = ir.Value(name=f"w{index}", const_value=copy, shape=copy.shape, type=ir.TensorType(copy.dtype))
        model.graph.register_initializer(value)
    write_model(model, tmp_path / "ours.onnx", external=False)
    ir.save(model, tmp_path / "theirs.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    write_model(model, tmp_path / "outside.onnx", external=True)
    assert values_of(ir.load(tmp_path / "outside.onnx")) == values_of(model)


def test_large_weights_begin_at_a_page(tmp_path: Path) -> None:
    model = model_of(tensor(np.ones(300, np.float32), "a"), tensor(np.ones(2**18, np.float32), "b"))
    write_model(model, tmp_path / "m.onnx", external=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    offsets = [int(e.value) for i in proto.graph.initializer for e in i.external_data if e.key == "offset"]
    assert offsets == [0, 4096]


def test_same_bytes_twice(tmp_path: Path) -> None:
    for external in (False, True):
        for name in ("1", "2"):
            (tmp_path / name).mkdir(exist_ok=True)
            write_model(model_of(TENSORS["float32"]), tmp_path / name / "m.onnx", external=external)
        for file in (tmp_path / "1").iterdir():
            assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


def subgraph_model() -> onnx.ModelProto:
    """y = x + w if the flag else x - w; both weights live in the branches, one large constant in a node."""

    def branch(op: str) -> onnx.GraphProto:
        weight = helper.make_tensor(
            f"w_{op}", TensorProto.FLOAT, [500], np.full(500, 3, np.float32).tobytes(), raw=True
        )
        node = helper.make_node(op, ["x", f"w_{op}"], [f"out_{op}"])
        out = helper.make_tensor_value_info(f"out_{op}", TensorProto.FLOAT, [500])
        return helper.make_graph([node], op, [], [out], initializer=[weight])

    constant = helper.make_tensor("c", TensorProto.FLOAT, [500], np.arange(500, dtype=np.float32).tobytes(), raw=True)
    nodes = [
        helper.make_node("If", ["flag"], ["z"], then_branch=branch("Add"), else_branch=branch("Sub")),
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Add", ["z", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [500]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [500])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("external", [False, True])
def test_weights_of_subgraphs(external: bool, tmp_path: Path) -> None:
    model = ir.from_proto(subgraph_model())
    written = write_model(model, tmp_path / "m.onnx", external=external)
    assert len(written.files) == 1 + external
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for flag, sign in ((True, 1), (False, -1)):
        (y,) = session.run(None, {"x": np.zeros(500, np.float32), "flag": np.array(flag)})
        np.testing.assert_array_equal(y, np.arange(500, dtype=np.float32) + 3 * sign)


@pytest.mark.parametrize("external", [False, True])
def test_weights_stored_elsewhere_come_along(external: bool, tmp_path: Path) -> None:
    proto = subgraph_model()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(2000, dtype=np.int64), "big"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(2, dtype=np.int64), "little"))
    (tmp_path / "old").mkdir()
    onnx.save(
        proto,
        tmp_path / "old" / "m.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="weights.bin",
        convert_attribute=True,
    )
    model = ir.load(tmp_path / "old" / "m.onnx")
    (tmp_path / "new").mkdir()
    write_model(model, tmp_path / "new" / "m.onnx", external=external)
    kinds = [type(v.const_value) for v in model.graph.initializers.values()]
    assert kinds == [ir.ExternalTensor] * 2, "the caller's model was changed"
    (tmp_path / "old" / "weights.bin").unlink()
    back = values_of(ir.load(tmp_path / "new" / "m.onnx"))
    assert np.frombuffer(back["big"][2], np.int64).tolist() == list(range(2000))
    assert np.frombuffer(back["little"][2], np.int64).tolist() == [0, 1]
    session = ort.InferenceSession(tmp_path / "new" / "m.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros(500, np.float32), "flag": np.array(True)})
    np.testing.assert_array_equal(y, np.arange(500, dtype=np.float32) + 3)


@pytest.mark.parametrize("external", [False, True])
def test_the_model_is_not_changed(external: bool, tmp_path: Path) -> None:
    model = model_of(TENSORS["float32"], tensor(np.arange(3), "small"))
    other_name = tensor(np.arange(2), "other name")
    model.graph.register_initializer(ir.Value(name="named", const_value=other_name))
    before = [(v, v.const_value) for v in model.graph.initializers.values()]
    write_model(model, tmp_path / "m.onnx", external=external)
    after = [(v, v.const_value) for v in model.graph.initializers.values()]
    assert all(a[0] is b[0] and a[1] is b[1] for a, b in zip(before, after, strict=True))
    assert other_name.name == "other name"


def test_weights_cannot_be_read_from_the_file_that_is_written(tmp_path: Path) -> None:
    write_model(model_of(TENSORS["float32"]), tmp_path / "m.onnx", external=True)
    data = (tmp_path / "m.onnx_data").read_bytes()
    with pytest.raises(OutputError, match=r"m\.onnx_data"):
        write_model(ir.load(tmp_path / "m.onnx"), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx_data").read_bytes() == data


@pytest.mark.parametrize("external", [False, True])
def test_a_weight_that_lies_about_its_size_leaves_no_file(external: bool, tmp_path: Path) -> None:
    liar = ir.LazyTensor(lambda: tensor(np.ones(400, np.float32)), ir.DataType.FLOAT, ir.Shape([401]), name="liar")
    with pytest.raises(ExportError, match="liar"):
        write_model(model_of(TENSORS["int64"], liar), tmp_path / "m.onnx", external=external)
    assert list(tmp_path.iterdir()) == []


def test_an_old_data_file_does_not_stay_with_a_graph_without_one(tmp_path: Path) -> None:
    write_model(model_of(TENSORS["float32"]), tmp_path / "m.onnx", external=True)
    write_model(model_of(TENSORS["small"]), tmp_path / "m.onnx", external=True)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("external", [False, True])
def test_progress_counts_every_streamed_byte(external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.serialization.tensor_bytes.BLOCK_BYTES", 1000)
    seen: list[int] = []
    big, turned = tensor(np.ones(700, np.float64), "a"), tensor(np.arange(4000).reshape(20, 200).T, "b")
    model = model_of(big, turned, tensor(np.ones(3), "c"))
    write_model(model, tmp_path / "m.onnx", external=external, reporter_bytes=seen.append)
    assert sum(seen) == 700 * 8 + 4000 * 8
    assert max(seen) <= 1600  # a row of the transposed one is larger than a block
    assert values_of(ir.load(tmp_path / "m.onnx")) == values_of(model)


def test_two_gigabytes_need_a_data_file(tmp_path: Path) -> None:
    def never() -> ir.Tensor:
        raise AssertionError("the weights are not needed to tell")

    def lazy(count: int) -> ir.Model:
        return model_of(ir.LazyTensor(never, ir.DataType.FLOAT, ir.Shape([count]), name="w"))  # type: ignore[arg-type]

    assert not needs_external(lazy(2**28))
    assert not needs_external(lazy(2**29 - 2**18 - 200))  # the graph itself has some bytes
    assert needs_external(lazy(2**29 - 2**18 - 10))
    assert needs_external(lazy(2**29))
    with pytest.raises(OutputError, match="2 GiB") as caught:
        write_model(lazy(2**29), tmp_path / "m.onnx", external=False)
    assert "--use-external-format" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_typed_fields_become_raw_bytes(tmp_path: Path) -> None:
    """Some exporters write float_data; the values must be the same, the field need not."""
    numbers = list(range(600))
    typed = [
        ir.from_proto(helper.make_tensor(f"w{kind}", kind, [600], numbers))
        for kind in (
            TensorProto.FLOAT,
            TensorProto.INT64,
            TensorProto.FLOAT16,
            TensorProto.BFLOAT16,
            TensorProto.DOUBLE,
        )
    ]
    write_model(model_of(*typed), tmp_path / "m.onnx", external=False)
    for initializer in onnx.load(tmp_path / "m.onnx").graph.initializer:
        expected = np.array(numbers).astype(onnx.numpy_helper.to_array(initializer).dtype)
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(initializer), expected)
    assert run(tmp_path / "m.onnx").tolist() == [2, 4]


def test_without_onnx_ir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(MissingDependencyError, match="onnx_ir") as caught:
        write_model(model, tmp_path / "m.onnx", external=False)
    assert "pip install 'onnxport[pytorch]'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


NUMPY_TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, bool, ml_dtypes.int4, np.float64]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.lists(st.integers(0, 40), max_size=3))
    numbers = np.random.default_rng(draw(st.integers(0, 99))).integers(-8, 8, shape)
    array = numbers.astype(draw(st.sampled_from(NUMPY_TYPES)))
    return array.transpose() if draw(st.booleans()) else array


@given(st.lists(arrays(), max_size=5), st.integers(64, 5000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_any_model(tmp_path: Path, arrays: list[np.ndarray[Any, Any]], block: int) -> None:
    model = model_of(*(tensor(array, f"w{index}") for index, array in enumerate(arrays)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxport.serialization.tensor_bytes.BLOCK_BYTES", block)
        write_model(model, tmp_path / "ours.onnx", external=False)
        write_model(model, tmp_path / "outside.onnx", external=True)
    ir.save(model, tmp_path / "theirs.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    assert values_of(ir.load(tmp_path / "outside.onnx")) == values_of(model)


@given(st.integers(0, 2**63))
def test_varint_is_protobufs(value: int) -> None:
    from google.protobuf.internal.encoder import _VarintBytes

    assert varint(value) == _VarintBytes(value)


MEMORY_SCRIPT = """
    import resource, sys
    from pathlib import Path
    import numpy as np, onnx, onnx_ir as ir
    from onnxport.serialization.onnxfile import write_model

    def peak():  # bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    rng = np.random.default_rng(0)
    values = []
    for index in range(6):
        array = rng.standard_normal((2048, 2048), dtype=np.float32)  # 16 MiB
        array = array.T if index % 2 else array
        t = ir.Tensor(array, name=f"w{index}")
        values.append(ir.Value(name=t.name, const_value=t))
    graph = ir.Graph([], [], nodes=[], initializers=values, name="g", opset_imports={"": 21})
    model = ir.Model(graph, ir_version=10)
    before = peak()
    write_model(model, Path(sys.argv[1]), external=sys.argv[2] == "external")
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("layout", ["embedded", "external"])
@pytest.mark.slow
def test_memory_is_that_of_a_block(layout: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(MEMORY_SCRIPT), str(tmp_path / "m.onnx"), layout]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    assert int(result.stdout) < 30 * 2**20  # of 96 MiB of weights
