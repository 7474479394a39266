"""The header of a GGUF file: what it says, and that no damaged one is accepted or takes time or memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.errors import CheckpointError
from onnxport.formats.gguf_file import _TYPES, read_gguf_header
from tests.unit.checkpoints import fails, write_json


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)


KEYS = (
    key("general.architecture", 8, text("llama")),
    key("llama.block_count", 4, struct.pack("<I", 2)),
    key("llama.rope.freq_base", 6, struct.pack("<f", 500.0)),
    key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("\u0120b")),
    key("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
    key("tokenizer.ggml.add_bos_token", 7, b"\x01"),
)
TENSORS = (tensor("output.weight", (3, 64), 8, 0), tensor("norm.weight", (5,), 0, 224))


def gguf_bytes(
    keys: tuple[bytes, ...] = KEYS, tensors: tuple[bytes, ...] = TENSORS, version: int = 3, data: int = 224 + 20
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


WHOLE = gguf_bytes()


def test_what_a_header_says(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(WHOLE)
    header = read_gguf_header(tmp_path / "m.gguf")
    assert (header.architecture, header.version) == ("llama", 3)
    assert header.values["llama.block_count"] == 2
    assert header.values["llama.rope.freq_base"] == 500.0
    assert header.values["tokenizer.ggml.tokens"] == 2
    assert header.values["tokenizer.ggml.add_bos_token"] is True
    assert header.tensors["output.weight"].shape == (3, 64)
    assert header.tensors["norm.weight"].begin == len(WHOLE) - 20
    assert (header.quantized, header.dtype) == (("Q8_0",), None)
    assert header.elements == 3 * 64 + 5


@pytest.mark.parametrize(("kinds", "dtype"), [((0, 0), "float32"), ((1, 0), "float16"), ((30, 0), "bfloat16")])
def test_main_type(kinds: tuple[int, int], dtype: str, tmp_path: Path) -> None:
    tensors = tuple(tensor(f"t{i}", (4 - i,), kind, 32 * i) for i, kind in enumerate(kinds))
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(tensors=tensors))
    header = read_gguf_header(tmp_path / "m.gguf")
    assert (header.dtype, header.quantized) == (dtype, ())


def test_the_table_of_types_is_llama_cpps() -> None:
    gguf = pytest.importorskip("gguf")
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in _TYPES} == _TYPES


def test_a_type_that_is_newer_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(tensors=(tensor("t", (8,), 99, 0),)))
    assert read_gguf_header(tmp_path / "m.gguf").quantized == ("type 99",)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04 no such file", "does not start with GGUF"),
        (gguf_bytes(version=1), "has version 1"),
        (gguf_bytes(version=3 << 24), "big-endian"),
        (gguf_bytes(keys=KEYS[1:]), "does not name its architecture"),
        (gguf_bytes(keys=(key("general.architecture", 4, bytes(4)),)), "does not name its architecture"),
        (gguf_bytes(keys=(*KEYS, key("x", 77, b""))), "is of type 77"),
        (gguf_bytes(keys=(*KEYS, key("x", 9, struct.pack("<IQ", 9, 1)))), "array of type 9"),
        (gguf_bytes(keys=(*KEYS, key("x", 8, struct.pack("<Q", 2) + b"\xff\xff"))), "not UTF-8"),
        (gguf_bytes(keys=(*KEYS, key("general.alignment", 4, bytes(4)))), "alignment is 0"),
        (gguf_bytes(tensors=()), "holds no tensors"),
        (gguf_bytes(tensors=(TENSORS[0], TENSORS[0])), "two tensors"),
        (gguf_bytes(tensors=(tensor("t", (1,) * 5, 0, 0),)), "has 5 axes"),
        (gguf_bytes(tensors=(tensor("t", (3, 33), 8, 0),)), "rows of 't'"),
        (gguf_bytes(tensors=(tensor("t", (2**62, 2**62), 0, 0),)), "is cut off"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63) + bytes(99), "cannot hold"),
        (gguf_bytes(keys=(*KEYS, key("x", 9, struct.pack("<IQ", 6, 2**62)))), "cannot hold"),
        (gguf_bytes(keys=(*KEYS, key("x", 8, struct.pack("<Q", 2**63)))), "goes on beyond"),
    ],
)
def test_damaged(content: bytes, part: str, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    fails(file, "m.gguf", part)
    fails(tmp_path, "m.gguf", part)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_no_cut_is_accepted(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.gguf"
    file.write_bytes(WHOLE[:length])
    with pytest.raises(CheckpointError) as caught:
        read_gguf_header(file)
    assert caught.value.hint


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
@pytest.mark.slow
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray(WHOLE)
    for place, value in changes:
        raw[place] = value
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    file.write_bytes(raw)
    try:
        read_gguf_header(file)
    except CheckpointError as error:
        assert error.hint


def test_a_file_and_a_folder_as_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(WHOLE)
    for given_path in (file, tmp_path):
        found = inspect_checkpoint(given_path)
        assert (found.weights_format, found.framework, found.dtype) == ("gguf", "pt", None)
        assert found.weight_files == (file,)
        assert found.total_bytes == len(WHOLE)
        assert found.source == given_path.name
        assert (found.config, found.model_type) == ({}, None)
    write_json(tmp_path / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    assert inspect_checkpoint(tmp_path).model_type == "llama"
    assert inspect_checkpoint(file).model_type is None  # a neighbour may belong to another model


def test_several_files_and_parts(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(WHOLE)
    fails(tmp_path, "2 GGUF files (a.gguf, b.gguf)", str(tmp_path / "a.gguf"))
    part = tmp_path / "m-00001-of-00003.gguf"
    part.write_bytes(gguf_bytes(keys=(*KEYS, key("split.count", 2, struct.pack("<H", 3)))))
    fails(part, "one of 3 parts", "--merge")


def test_no_framework_is_imported(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(WHOLE)
    code = (
        "import sys; from onnxport.checkpoints.checkpoint import inspect_checkpoint; "
        f"inspect_checkpoint({str(tmp_path)!r}); "
        "heavy = {'torch', 'transformers', 'numpy', 'gguf'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
