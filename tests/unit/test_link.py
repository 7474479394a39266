"""Checkpoint files that are linked, not copied."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxport.errors import ExportError, OutputError
from onnxport.publishing.staging import stage_file
from onnxport.serialization import link as link_module
from onnxport.serialization.layout import link_names
from onnxport.serialization.link import link_file
from onnxport.serialization.onnxfile import streamed_tensors, write_cost, write_model
from onnxport.serialization.written_model import check_written, damaged
from tests.unit.graphs import Streaming, check_hashes, locations, stored, sum_model, tensor

RNG = np.random.default_rng(3)
A, B, C, D = (RNG.standard_normal(size).astype(np.float32) for size in (3000, 700, 900, 500))
SMALL = np.array([1, 2, 3], np.float32)


def checkpoint(folder: Path) -> tuple[ir.Model, Path, Path]:
    """A model with weights in two files, one stored twice, one that is converted, and a small one."""
    folder.mkdir()
    first, second = folder / "model-1.safetensors", folder / "model-2.safetensors"
    a, c = stored(A, first, "a", before=13), stored(C, second, "c")
    small, b = stored(SMALL, first, "small"), stored(B, first, "b")
    tied = ir.ExternalTensor(
        first.name, a.offset, a.length, ir.DataType.FLOAT, shape=ir.Shape([3000]), name="tied", base_dir=folder
    )
    with first.open("ab") as file:
        file.write(bytes(5000))  # a weight that the graph does not have
    return sum_model(b, Streaming(D, "converted"), c, small, tied, a), first, second


def total(graph: Path) -> Any:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([1, 2], np.float32)})[0]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def linked(model: ir.Model, out: Path) -> dict[Path, str]:
    return link_names(streamed_tensors(model), out / "m.onnx")


def test_weights_stay_where_they_are(tmp_path: Path) -> None:
    model, first, second = checkpoint(tmp_path / "ckpt")
    out = tmp_path / "out"
    out.mkdir()
    link = linked(model, out)
    assert link == {first.resolve(): "m.onnx_data", second.resolve(): "m.onnx_data_1"}
    seen: list[int] = []
    written = write_model(model, out / "m.onnx", external=True, link=link, reporter_bytes=seen.append)
    assert locations(out / "m.onnx") == {
        "b": ("m.onnx_data", first.stat().st_size - 5000 - B.nbytes),
        "converted": ("m.onnx_data_2", 0),
        "c": ("m.onnx_data_1", 8),
        "tied": ("m.onnx_data", 13),
        "a": ("m.onnx_data", 13),
    }
    assert (out / "m.onnx_data").samefile(first) and (out / "m.onnx_data_1").samefile(second)
    check_hashes(out, written)
    check_written(out, written)
    assert {record.name: record.checksum for record in written.weights}["a"] == f"{zlib.crc32(A.tobytes()):08x}"
    cost = write_cost(model, external=True, link=link)
    assert cost.written == D.nbytes
    assert cost.reported == sum(seen) == D.nbytes + first.stat().st_size + second.stat().st_size
    plain = tmp_path / "plain"
    plain.mkdir()
    write_model(model, plain / "m.onnx", external=True)
    np.testing.assert_array_equal(total(out / "m.onnx"), total(plain / "m.onnx"))


def test_all_in_one_file_needs_no_other(tmp_path: Path) -> None:
    model = sum_model(stored(A, tmp_path / "w.safetensors", "a"))
    (tmp_path / "out").mkdir()
    written = write_model(model, tmp_path / "out" / "m.onnx", external=True, link=linked(model, tmp_path / "out"))
    assert names(tmp_path / "out") == ["m.onnx", "m.onnx_data"]
    check_hashes(tmp_path / "out", written)


def test_only_files_that_are_used_are_linked(tmp_path: Path) -> None:
    model = sum_model(stored(A, tmp_path / "w.safetensors", "a"), stored(SMALL, tmp_path / "s.safetensors", "small"))
    (tmp_path / "out").mkdir()
    assert linked(model, tmp_path / "out") == {tmp_path / "w.safetensors": "m.onnx_data"}
    both = {tmp_path / "w.safetensors": "w", tmp_path / "s.safetensors": "s"}
    write_model(model, tmp_path / "out" / "m.onnx", external=True, link=both)
    assert names(tmp_path / "out") == ["m.onnx", "w"]


def test_a_weight_that_streams_is_not_linked(tmp_path: Path) -> None:
    class Converted(ir.ExternalTensor):
        def blocks(self) -> Any:
            yield memoryview(B)

    (tmp_path / "w").write_bytes(bytes(B.nbytes))
    weight = Converted("w", 0, B.nbytes, ir.DataType.FLOAT, shape=ir.Shape([700]), name="w", base_dir=tmp_path)
    (tmp_path / "out").mkdir()
    assert linked(sum_model(weight), tmp_path / "out") == {}
    write_model(sum_model(weight), tmp_path / "out" / "m.onnx", external=True, link={tmp_path / "w": "x"})
    assert (tmp_path / "out" / "m.onnx_data").read_bytes() == B.tobytes()


def test_a_cache_of_links_is_followed(tmp_path: Path) -> None:
    """As the hub's cache is: the file's name is a symbolic link to a blob."""
    stored(A, tmp_path / "blob", "a")
    (tmp_path / "model.safetensors").symlink_to("blob")
    weight = ir.ExternalTensor(
        "model.safetensors", 8, A.nbytes, ir.DataType.FLOAT, shape=ir.Shape([3000]), name="a", base_dir=tmp_path
    )
    (tmp_path / "out").mkdir()
    link = {tmp_path / "model.safetensors": "m.onnx_data"}
    write_model(sum_model(weight), tmp_path / "out" / "m.onnx", external=True, link=link)
    assert not (tmp_path / "out" / "m.onnx_data").is_symlink()
    assert (tmp_path / "out" / "m.onnx_data").samefile(tmp_path / "blob")
    np.testing.assert_allclose(total(tmp_path / "out" / "m.onnx"), A.sum() + np.array([1, 2]), rtol=1e-4)


def test_beside_the_checkpoint_nothing_is_linked(tmp_path: Path) -> None:
    model, first, second = checkpoint(tmp_path / "ckpt")
    before = {file: file.read_bytes() for file in (first, second)}
    link = linked(model, tmp_path / "ckpt")
    assert link == {first: first.name, second: second.name}
    written = write_model(model, tmp_path / "ckpt" / "m.onnx", external=True, link=link)
    assert names(tmp_path / "ckpt") == sorted([first.name, second.name, "m.onnx", "m.onnx_data"])
    check_hashes(tmp_path / "ckpt", written)
    assert first.stat().st_nlink == 1
    assert {file: file.read_bytes() for file in (first, second)} == before


def test_staged_beside_the_checkpoint(tmp_path: Path) -> None:
    model, first, second = checkpoint(tmp_path / "ckpt")
    before, node = first.read_bytes(), first.stat().st_ino
    for _ in range(2):
        with stage_file(tmp_path / "ckpt" / "m.onnx", overwrite=True) as staging:
            write_model(model, staging.path / "m.onnx", external=True, link=linked(model, tmp_path / "ckpt"))
            staging.publish()
        assert names(tmp_path / "ckpt") == sorted([first.name, second.name, "m.onnx", "m.onnx_data"])
        assert (first.read_bytes(), first.stat().st_ino, first.stat().st_nlink) == (before, node, 1)
        total(tmp_path / "ckpt" / "m.onnx")


@pytest.mark.parametrize("inside", [False, True])
def test_a_failure_never_removes_the_checkpoint(inside: bool, tmp_path: Path) -> None:
    model, first, second = checkpoint(tmp_path / "ckpt")
    out = tmp_path / ("ckpt" if inside else "out")
    out.mkdir(exist_ok=True)
    before = {name: (out / name).read_bytes() for name in names(out)}
    cost = write_cost(model, external=True, link=linked(model, out))
    seen = 0

    def interrupted(count: int) -> None:
        nonlocal seen
        seen += count
        if seen == cost.reported:  # the last block: all is written but the graph
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model(model, out / "m.onnx", external=True, link=linked(model, out), reporter_bytes=interrupted)
    assert {name: (out / name).read_bytes() for name in names(out)} == before
    assert first.stat().st_nlink == second.stat().st_nlink == 1


def test_converting_again_keeps_the_checkpoint(tmp_path: Path) -> None:
    model, first, second = checkpoint(tmp_path / "ckpt")
    before = first.read_bytes(), second.read_bytes()
    (tmp_path / "out").mkdir()
    link = linked(model, tmp_path / "out")
    first_time = write_model(model, tmp_path / "out" / "m.onnx", external=True, link=link)
    assert write_model(model, tmp_path / "out" / "m.onnx", external=True, link=link) == first_time
    # Without links the data file would be written over the weights that it holds.
    with pytest.raises(OutputError, match="holds the weights that are being converted"):
        write_model(model, tmp_path / "out" / "m.onnx", external=True)
    # Nor may the files change places, each in the way of the other.
    turned = {first: "m.onnx_data_1", second: "m.onnx_data"}
    with pytest.raises(OutputError, match="holds the weights"):
        write_model(model, tmp_path / "out" / "m.onnx", external=True, link=turned)
    # Another model there leaves the checkpoint alone.
    write_model(sum_model(tensor(B, "b")), tmp_path / "out" / "m.onnx", external=True)
    assert names(tmp_path / "out") == ["m.onnx", "m.onnx_data"]
    assert (first.read_bytes(), second.read_bytes()) == before


def test_a_linked_file_that_ends_too_early(tmp_path: Path) -> None:
    model, first, _ = checkpoint(tmp_path / "ckpt")
    os.truncate(first, 13 + A.nbytes - 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=r"model-1\.safetensors has 12,012 bytes, and the weight 'a' ends"):
        write_model(
            sum_model(next(t for t in streamed_tensors(model) if t.name == "a")),
            tmp_path / "out" / "m.onnx", external=True, link={first: "m.onnx_data"},
        )  # fmt: skip
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("length", [2796, 2804])
def test_a_linked_weight_of_a_wrong_length(length: int, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(9000))
    (tmp_path / "out").mkdir()
    weight = ir.ExternalTensor("w", 0, length, ir.DataType.FLOAT, shape=ir.Shape([700]), name="w", base_dir=tmp_path)
    with pytest.raises(ExportError, match="'w'"):
        write_model(sum_model(weight), tmp_path / "out" / "m.onnx", external=True, link={tmp_path / "w": "x"})
    assert names(tmp_path / "out") == []


def test_names_that_cannot_be(tmp_path: Path) -> None:
    model, first, second = checkpoint(tmp_path / "ckpt")
    for link in (
        {first: "../x"}, {first: ""}, {first: "a/b"}, {first: str(tmp_path / "x")}, {first: "m.onnx"},
        {first: "x", second: "x"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="a name of its own"):
            write_model(model, tmp_path / "m.onnx", external=True, link=link)
    with pytest.raises(ValueError, match="external"):
        write_model(model, tmp_path / "m.onnx", external=False, link={first: "x"})
    assert names(tmp_path) == ["ckpt"]


# ---------------------------------------------------------------- link_file


def test_a_link_to_another_file_system_is_refused(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev or not os.access(other, os.W_OK):
        pytest.skip("no second file system")
    (tmp_path / "w").write_text("x")
    target = other / f"onnxport-test-{os.getpid()}"
    with pytest.raises(OutputError, match=r"different file systems\.") as caught:
        link_file(tmp_path / "w", target)
    assert "leave --link-weights" in str(caught.value)
    assert not target.exists()


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(link_module.os, "link", refuse)
    monkeypatch.setattr(link_module, "fcntl", None)
    (tmp_path / "w").write_text("x")
    with pytest.raises(OutputError, match="does not permit it") as caught:
        link_file(tmp_path / "w", tmp_path / "v")
    assert "--link-weights" in str(caught.value)
    assert names(tmp_path) == ["w"]


def test_what_exists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("x")
    (tmp_path / "v").write_text("y")
    (tmp_path / "soft").symlink_to("w")
    for target in ("v", "soft"):
        with pytest.raises(OutputError, match="because it exists"):
            link_file(tmp_path / "w", tmp_path / target)
    assert (tmp_path / "v").read_text() == "y"
    assert link_file(tmp_path / "w", tmp_path / "w") is False
    assert link_file(tmp_path / "soft", tmp_path / "u") is True
    assert link_file(tmp_path / "w", tmp_path / "u") is False
    with pytest.raises(FileNotFoundError):
        link_file(tmp_path / "absent", tmp_path / "x")


def clone(new: int, request: int, old: int) -> int:
    """What the ioctl does on a file system that has reflinks."""
    assert request == 0x40049409
    os.write(new, os.pread(old, 100, 0))
    return 0


def test_a_reflink_comes_first_because_it_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", clone)
    (tmp_path / "w").write_text("x")
    assert link_file(tmp_path / "w", tmp_path / "v") is True
    assert (tmp_path / "v").read_text() == "x"
    assert (tmp_path / "w").stat().st_nlink == 1


def test_without_reflinks_it_is_a_hard_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.EINVAL):

        def refuse(*_: object, code: int = code) -> int:
            raise OSError(code, "no")

        monkeypatch.setattr(fcntl, "ioctl", refuse)
        (tmp_path / "w").write_text("x")
        assert link_file(tmp_path / "w", tmp_path / "v") is True
        assert (tmp_path / "v").samefile(tmp_path / "w")
        (tmp_path / "v").unlink()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_reflink_that_fails_leaves_no_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(fcntl, "ioctl", fail)
    (tmp_path / "w").write_text("x")
    with pytest.raises(type(error)):
        link_file(tmp_path / "w", tmp_path / "v")
    assert names(tmp_path) == ["w"]


def test_a_change_of_the_checkpoint_is_found(tmp_path: Path) -> None:
    """A hard link is the same file: what is done to the checkpoint later is done to the graph's weights."""
    model, first, _ = checkpoint(tmp_path / "ckpt")
    (tmp_path / "out").mkdir()
    written = write_model(model, tmp_path / "out" / "m.onnx", external=True, link=linked(model, tmp_path / "out"))
    with first.open("r+b") as file:
        file.seek(20)
        file.write(b"!")
    assert [record.name for record in damaged(tmp_path / "out", written.weights)] == ["tied", "a"]
    digest = hashlib.sha256((tmp_path / "out" / "m.onnx_data").read_bytes()).hexdigest()
    assert digest != written.sha256["m.onnx_data"]
