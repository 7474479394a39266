"""Weights that are not in memory: ranges of checkpoint files, and tensors that give their bytes in blocks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxport.errors import ExportError
from onnxport.serialization import tensor_bytes
from onnxport.serialization.onnxfile import write_model
from onnxport.serialization.tensor_bytes import StreamsBytes, tensor_blocks
from tests.unit.graphs import Streaming, check_hashes, model_of, run, stored, tensor, values_of

RNG = np.random.default_rng(2)
ARRAYS = [
    RNG.standard_normal((40, 30)).astype(np.float32),
    RNG.standard_normal(999).astype(ml_dtypes.bfloat16),
    RNG.integers(-99, 99, (7, 40)),
    RNG.standard_normal((300, 300)).astype(np.float16),
    np.array([1, 2, 3], np.int64),  # small: in the graph
    np.array(2.5, np.float32),
]


def test_protocol() -> None:
    assert isinstance(Streaming(ARRAYS[0], "w"), StreamsBytes)
    assert not isinstance(tensor(ARRAYS[0]), StreamsBytes)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("kind", ["streaming", "stored"])
def test_the_files_are_those_of_weights_in_memory(
    kind: str, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_bytes, "BLOCK_BYTES", 1500)  # ranges longer and shorter than a block
    for folder in ("ckpt", "plain", "other"):
        (tmp_path / folder).mkdir()
    checkpoint = tmp_path / "ckpt" / "model.safetensors"
    plain = [tensor(array, f"w{n}") for n, array in enumerate(ARRAYS)]
    other: list[ir.TensorProtocol] = [
        Streaming(array, f"w{n}") if kind == "streaming" else stored(array, checkpoint, f"w{n}", before=13)
        for n, array in enumerate(ARRAYS)
    ]
    if kind == "stored":  # a file with two names, which onnx_ir refuses, and behind a link, as the hub's cache has it
        os.link(checkpoint, tmp_path / "ckpt" / "second name")
        checkpoint.rename(tmp_path / "blob")
        checkpoint.symlink_to(tmp_path / "blob")
    first = write_model(model_of(*plain), tmp_path / "plain" / "m.onnx", external=external)
    second = write_model(model_of(*other), tmp_path / "other" / "m.onnx", external=external)
    assert second.sha256 == first.sha256
    assert second.weights == first.weights
    check_hashes(tmp_path / "other", second)
    assert values_of(ir.load(tmp_path / "other" / "m.onnx")) == values_of(model_of(*plain))
    assert run(tmp_path / "other" / "m.onnx").tolist() == [2, 4]


@pytest.mark.parametrize("external", [False, True])
def test_packed_weights_of_a_file(external: bool, tmp_path: Path) -> None:
    packed = RNG.integers(0, 256, 2000).astype(np.uint8)
    (tmp_path / "data").write_bytes(bytes(5) + packed.tobytes())
    (tmp_path / "out").mkdir()
    large = ir.ExternalTensor(
        "data", 5, 2000, ir.DataType.UINT4, shape=ir.Shape([40, 100]), name="a", base_dir=tmp_path
    )
    small = ir.ExternalTensor("data", 5, 3, ir.DataType.UINT4, shape=ir.Shape([5]), name="b", base_dir=tmp_path)
    write_model(model_of(large, small), tmp_path / "out" / "m.onnx", external=external)
    back = values_of(ir.load(tmp_path / "out" / "m.onnx"))
    assert back["a"][2] == packed.tobytes()
    assert back["b"][2] == packed[:3].tobytes()


def test_blocks_may_hold_other_items_than_bytes(tmp_path: Path) -> None:
    array = np.arange(900, dtype=np.float32).reshape(30, 30)

    class Rows(Streaming):
        def blocks(self) -> Iterator[memoryview]:
            yield memoryview(array[:10])
            yield memoryview(bytearray())
            yield memoryview(array[10:].reshape(-1))

    written = write_model(model_of(Rows(array, "w")), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx_data").read_bytes() == array.tobytes()
    check_hashes(tmp_path, written)


@pytest.mark.parametrize(
    ("count", "found", "told"),
    [
        (900, 899, "3,596 bytes"), (900, 901, "more than 3,600 bytes"), (900, 0, "0 bytes"),
        (9, 8, "32 bytes"), (9, 10, "more than 36 bytes"), (9, 0, "0 bytes"),  # in the graph
    ],
)  # fmt: skip
@pytest.mark.parametrize("external", [False, True])
def test_a_stream_of_another_length_leaves_no_file(
    external: bool, count: int, found: int, told: str, tmp_path: Path
) -> None:
    class Liar(Streaming):
        def blocks(self) -> Iterator[memoryview]:
            yield memoryview(bytes(found * 4))

    with pytest.raises(ExportError, match=told) as caught:
        write_model(model_of(Liar(np.ones(count, np.float32), "liar")), tmp_path / "m.onnx", external=external)
    assert "'liar'" in caught.value.message and "was not written" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_an_endless_stream_is_stopped(tmp_path: Path) -> None:
    class Endless(Streaming):
        def blocks(self) -> Iterator[memoryview]:
            while True:
                yield memoryview(bytes(1000))

    with pytest.raises(ExportError, match="more than 3,600"):
        write_model(model_of(Endless(np.ones(900, np.float32), "w")), tmp_path / "m.onnx", external=True)


@pytest.mark.parametrize("count", [3, 900])  # in the graph, streamed
@pytest.mark.parametrize("external", [False, True])
def test_a_checkpoint_that_is_cut_off_leaves_no_file(external: bool, count: int, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    weight = stored(np.ones(count, np.float32), tmp_path / "model.safetensors", "w")
    os.truncate(tmp_path / "model.safetensors", 8 + count * 4 - 5)
    with pytest.raises(
        ExportError, match=r"model\.safetensors ends 5 bytes before the end of the weight 'w'"
    ) as caught:
        write_model(model_of(weight), tmp_path / "out" / "m.onnx", external=external)
    assert caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_a_stored_weight_of_a_wrong_length_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(9000))
    (tmp_path / "out").mkdir()
    for length in (3596, 3604):
        weight = ir.ExternalTensor(
            "data", 8, length, ir.DataType.FLOAT, shape=ir.Shape([900]), name="w", base_dir=tmp_path
        )
        with pytest.raises(ExportError, match="'w'"):
            write_model(model_of(weight), tmp_path / "out" / "m.onnx", external=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_blocks_of_a_stored_weight_share_one_buffer(tmp_path: Path) -> None:
    array = np.arange(5000, dtype=np.float32)
    weight = stored(array, tmp_path / "data", "w")
    buffer = memoryview(bytearray(1024))
    content = b""
    for block in tensor_blocks(weight, buffer):
        assert block.obj is buffer.obj
        content += block
    assert content == array.tobytes()
    assert weight.raw is None, "it was mapped"


def test_records_tell_place_type_source_and_checksum(tmp_path: Path) -> None:
    a, b = ARRAYS[0], ARRAYS[1]
    model = model_of(
        tensor(a, "a"), Streaming(b, "b", source="model.safetensors:x.weight, transposed"), tensor(ARRAYS[4], "c")
    )
    for external in (True, False):
        folder = tmp_path / str(external)
        folder.mkdir()
        first, second = write_model(model, folder / "m.onnx", external=external).weights
        assert (first.name, first.dtype, first.shape, first.length) == ("a", "float32", (40, 30), 4800)
        assert (second.name, second.dtype, second.shape, second.length) == ("b", "bfloat16", (999,), 1998)
        assert (first.source, second.source) == (None, "model.safetensors:x.weight, transposed")
        for record, array in ((first, a), (second, b)):
            assert record.file == ("m.onnx_data" if external else "m.onnx")
            content = (folder / record.file).read_bytes()[record.offset : record.offset + record.length]
            assert content == array.tobytes()
            assert int(record.checksum, 16) == zlib.crc32(array.tobytes())
            assert len(record.checksum) == 8
    assert onnx.load(tmp_path / "False" / "m.onnx").graph.initializer[0].name == "a"


MEMORY_SCRIPT = """
    import resource, sys
    from pathlib import Path
    import numpy as np, onnx, onnx_ir as ir
    from onnxport.serialization.onnxfile import write_model
    from onnxport.serialization.written_model import check_written
    from tests.unit.graphs import model_of

    def peak():  # bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    folder = Path(sys.argv[1])
    size = 2**24  # 16 MiB
    with (folder / "model.safetensors").open("wb") as file:
        for _ in range(6):
            file.write(np.random.default_rng(0).bytes(size))
    weights = [
        ir.ExternalTensor("model.safetensors", n * size, size, ir.DataType.FLOAT, shape=ir.Shape([2048, 2048]),
                          name=f"w{n}", base_dir=folder)
        for n in range(6)
    ]
    before = peak()
    options = {"embedded": {"external": False}, "external": {"external": True},
               "shards": {"external": True, "shard_bytes": size}}[sys.argv[2]]
    written = write_model(model_of(*weights), folder / "m.onnx", **options)
    check_written(folder, written)
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("layout", ["embedded", "external", "shards"])
@pytest.mark.slow
def test_stored_weights_cost_a_block_of_memory(layout: str, tmp_path: Path) -> None:
    """Mapped, 96 MiB of them would count."""
    command = [sys.executable, "-c", textwrap.dedent(MEMORY_SCRIPT), str(tmp_path), layout]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(result.stdout) < 16 * 2**20
