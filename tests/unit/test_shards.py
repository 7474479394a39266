"""Weights in several data files: where each goes, that ONNX Runtime finds them, and that none is left over."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxport.artifact.data_files import data_files, data_name
from onnxport.errors import ExportError
from onnxport.publishing.staging import stage_file
from onnxport.serialization.layout import lay_out
from onnxport.serialization.onnxfile import write_cost, write_model
from tests.unit.graphs import check_hashes, locations, model_of, sum_model, tensor, values_of
from tests.unit.sample_folder import tree

KIB = 1024


def zeros(kibibytes: int, name: str) -> ir.Tensor:
    return tensor(np.full(kibibytes * KIB // 4, len(name), np.float32), name)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_names_are_those_that_transformers_js_reads() -> None:
    assert [data_name("model.onnx", number) for number in (0, 1, 2, 11)] == [
        "model.onnx_data", "model.onnx_data_1", "model.onnx_data_2", "model.onnx_data_11",
    ]  # fmt: skip


def test_a_weight_is_never_split_and_a_large_one_is_alone(tmp_path: Path) -> None:
    model = model_of(zeros(2, "a"), zeros(2, "b"), zeros(1, "c"), zeros(9, "large"), zeros(3, "d"), zeros(1, "e"))
    written = write_model(model, tmp_path / "m.onnx", external=True, shard_bytes=4 * KIB)
    assert locations(tmp_path / "m.onnx") == {
        "a": ("m.onnx_data", 0), "b": ("m.onnx_data", 2048),  # full to the last byte
        "c": ("m.onnx_data_1", 0),
        "large": ("m.onnx_data_2", 0),
        "d": ("m.onnx_data_3", 0), "e": ("m.onnx_data_3", 3072),
    }  # fmt: skip
    assert [file.name for file in written.files] == ["m.onnx", *(f"m.onnx_data{n}" for n in ("", "_1", "_2", "_3"))]
    check_hashes(tmp_path, written)
    assert [file.stat().st_size for file in written.files[1:]] == [4096, 1024, 9216, 4096]
    assert values_of(ir.load(tmp_path / "m.onnx")) == values_of(model)


def test_onnx_runtime_computes_the_same_from_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = [tensor(rng.standard_normal(500 + 300 * n).astype(np.float32), f"w{n}") for n in range(6)]
    x = np.array([1, 2], np.float32)
    results = []
    for shard in (None, 6000):
        folder = tmp_path / str(shard)
        folder.mkdir()
        written = write_model(sum_model(*weights), folder / "m.onnx", external=True, shard_bytes=shard)
        assert len(written.files) == (2 if shard is None else 6)
        results.append(ort.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x}))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0][0], x + sum(w.numpy().sum() for w in weights), rtol=1e-5)


@given(st.lists(st.integers(1, 6000), max_size=30), st.none() | st.integers(1, 9000))
@settings(max_examples=200, deadline=None)
def test_any_layout(kilobytes: list[int], shard: int | None) -> None:
    tensors = [
        ir.LazyTensor(lambda: None, ir.DataType.UINT8, ir.Shape([size * 1000]), name="w")  # type: ignore[arg-type, return-value]
        for size in kilobytes
    ]
    limit = None if shard is None else shard * 1000
    places = lay_out("m", tensors, shard_bytes=limit, link={})
    files: dict[str, int] = {}
    for place, one in zip(places, tensors, strict=True):
        assert place.length == one.nbytes
        assert place.offset >= files.get(place.file, 0), "it overlaps the one before"
        if place.length >= 2**20:
            assert place.offset % 4096 == 0
        if limit is not None:
            assert place.end <= limit or place.offset == 0
        files[place.file] = place.end
    assert list(files) == [data_name("m", number) for number in range(len(files))]
    # Not more files than needed: the first weight of each would not have fitted into the one before.
    if limit is not None:
        ends = list(files.values())
        firsts = [place.length for place in places if place.offset == 0]
        assert all(end + first + 4096 > limit for end, first in zip(ends, firsts[1:], strict=False))


def test_cost_is_what_is_written_and_reported(tmp_path: Path) -> None:
    model = model_of(zeros(2, "a"), zeros(1500, "large"), zeros(3, "d"), tensor(np.ones(3, np.float32), "small"))
    for shard in (None, 4 * KIB):
        cost = write_cost(model, external=True, shard_bytes=shard)
        seen: list[int] = []
        (tmp_path / str(shard)).mkdir()
        written = write_model(
            model, tmp_path / str(shard) / "m.onnx", external=True, shard_bytes=shard, reporter_bytes=seen.append
        )
        assert cost.reported == sum(seen) == 1505 * KIB
        assert cost.written == sum(file.stat().st_size for file in written.files[1:])
        assert written.size_bytes == cost.written + written.files[0].stat().st_size
    cost = write_cost(model, external=False)
    size = write_model(model, tmp_path / "e.onnx", external=False).size_bytes
    assert 0 <= size - cost.written < 2000


@pytest.mark.parametrize("shard", [0, -1])
def test_a_shard_of_nothing_is_a_mistake_of_the_program(shard: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_bytes"):
        write_model(model_of(), tmp_path / "m.onnx", external=True, shard_bytes=shard)
    with pytest.raises(ValueError, match="external"):
        write_model(model_of(), tmp_path / "m.onnx", external=False, shard_bytes=5)
    assert names(tmp_path) == []


# ---------------------------------------------------------------- nothing left over


def test_shards_of_an_older_graph_go(tmp_path: Path) -> None:
    many = model_of(*(zeros(2, f"w{n}") for n in range(12)))
    write_model(many, tmp_path / "m.onnx", external=True, shard_bytes=2 * KIB)
    assert len(names(tmp_path)) == 13
    strangers = ["m.onnx_data_x", "m.onnx_data_01", "m.onnx_data_", "other.onnx_data_3", "m.onnx_data_2.bak"]
    for name in strangers:
        (tmp_path / name).write_text("mine")
    (tmp_path / "m.onnx_data_99").mkdir()
    written = write_model(many, tmp_path / "m.onnx", external=True, shard_bytes=8 * KIB)
    ours = ["m.onnx", "m.onnx_data", "m.onnx_data_1", "m.onnx_data_2"]
    assert [file.name for file in written.files] == ours
    assert names(tmp_path) == sorted([*ours, *strangers, "m.onnx_data_99"])
    assert [file.name for file in data_files(tmp_path / "m.onnx")] == ours[1:]


def test_data_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / data_name("m.onnx", number)).write_text("x")
    assert [file.name for file in data_files(tmp_path / "m.onnx")] == [data_name("m.onnx", n) for n in range(12)]
    assert data_files(tmp_path / "absent" / "m.onnx") == []


def test_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    liar = ir.LazyTensor(lambda: zeros(4, "liar"), ir.DataType.FLOAT, ir.Shape([1025]), name="liar")
    with pytest.raises(ExportError, match="liar"):
        write_model(
            model_of(zeros(4, "a"), zeros(4, "b"), liar), tmp_path / "m.onnx", external=True, shard_bytes=4 * KIB
        )
    assert names(tmp_path) == []


@pytest.mark.parametrize("external", [False, True])
def test_interrupt_in_the_middle_leaves_nothing(external: bool, tmp_path: Path) -> None:
    seen = 0

    def interrupted(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > 5 * KIB:
            assert names(tmp_path) != []
            raise KeyboardInterrupt

    model = model_of(*(zeros(2, f"w{n}") for n in range(9)))
    shard = 4 * KIB if external else None
    with pytest.raises(KeyboardInterrupt):
        write_model(model, tmp_path / "m.onnx", external=external, shard_bytes=shard, reporter_bytes=interrupted)
    assert names(tmp_path) == []


def test_what_has_a_second_name_elsewhere_is_not_written_over(tmp_path: Path) -> None:
    """Data files may be hard links to somebody's checkpoint."""
    (tmp_path / "dear").write_text("weights")
    (tmp_path / "out").mkdir()
    for name in ("m.onnx", "m.onnx_data", "m.onnx_data_1"):
        os.link(tmp_path / "dear", tmp_path / "out" / name)
    write_model(model_of(zeros(2, "a"), zeros(2, "b")), tmp_path / "out" / "m.onnx", external=True, shard_bytes=2 * KIB)
    assert (tmp_path / "dear").read_text() == "weights"
    assert (tmp_path / "dear").stat().st_nlink == 1
    for name in ("m.onnx", "m.onnx_data", "m.onnx_data_1"):
        (tmp_path / "out" / name).unlink()
        os.link(tmp_path / "dear", tmp_path / "out" / name)
    write_model(model_of(zeros(2, "a")), tmp_path / "out" / "m.onnx", external=False)
    assert (tmp_path / "dear").read_text() == "weights"


def publish_shards(destination: Path, text: str, shards: int, *, overwrite: bool = True) -> tuple[Path, ...]:
    with stage_file(destination, overwrite=overwrite) as staging:
        (staging.path / destination.name).write_text(text)
        for number in range(shards):
            (staging.path / data_name(destination.name, number)).write_text(text)
        return staging.publish()


def test_publishing_fewer_shards_removes_the_others(tmp_path: Path) -> None:
    graph = tmp_path / "m.onnx"
    publish_shards(graph, "old", 12)
    assert len(tree(tmp_path)) == 13
    for name in ("m.onnx_data_mine", "n.onnx_data_3"):
        (tmp_path / name).write_text("mine")
    files = publish_shards(graph, "new", 3)
    assert [file.name for file in files] == ["m.onnx", "m.onnx_data", "m.onnx_data_1", "m.onnx_data_2"]
    assert tree(tmp_path) == {
        **{file.name: "new" for file in files}, "m.onnx_data_mine": "mine", "n.onnx_data_3": "mine",
    }  # fmt: skip
    publish_shards(graph, "newest", 0)
    assert tree(tmp_path) == {"m.onnx": "newest", "m.onnx_data_mine": "mine", "n.onnx_data_3": "mine"}


def test_data_files_without_their_graph_are_not_ours_to_remove(tmp_path: Path) -> None:
    (tmp_path / "m.onnx_data_1").write_text("mine")
    publish_shards(tmp_path / "m.onnx", "new", 1)
    assert tree(tmp_path) == {"m.onnx": "new", "m.onnx_data": "new", "m.onnx_data_1": "mine"}
