"""ONNX files that must not be run, written field by field: no library would write them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from onnxport.formats.protobuf_wire import field_bytes, varint

FLOAT, INT64, STRING = 1, 7, 8


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value & 0xFFFFFFFFFFFFFFFF)


def text(field: int, value: str) -> bytes:
    return field_bytes(field, value.encode())


def tensor(name: str = "w", dims: tuple[int, ...] = (2,), data_type: int = FLOAT, *parts: bytes) -> bytes:
    body = b"".join(number(1, size) for size in dims) + number(2, data_type) + text(8, name)
    return body + b"".join(parts)


def raw(*values: float) -> bytes:
    return field_bytes(9, struct.pack(f"<{len(values)}f", *values))


def external(**entries: object) -> bytes:
    pairs = (text(1, key) + text(2, str(value)) for key, value in entries.items())
    return number(14, 1) + b"".join(field_bytes(13, pair) for pair in pairs)


def node(operator: str, inputs: str, outputs: str, *attributes: bytes, domain: str = "") -> bytes:
    names = b"".join(text(1, name) for name in inputs.split()) + b"".join(text(2, name) for name in outputs.split())
    given = b"".join(field_bytes(5, attribute) for attribute in attributes)
    return names + text(4, operator) + given + (text(7, domain) if domain else b"")


def value(name: str) -> bytes:
    shape = field_bytes(2, field_bytes(1, number(1, 2)))
    return text(1, name) + field_bytes(2, field_bytes(1, number(1, FLOAT) + shape))


def graph(*nodes: bytes, initializers: tuple[bytes, ...] = (), sparse: tuple[bytes, ...] = ()) -> bytes:
    made = nodes or (node("Add", "x w", "y"),)
    parts = [field_bytes(1, one) for one in made] + [text(2, "g")] + [field_bytes(5, one) for one in initializers]
    parts += [field_bytes(15, one) for one in sparse]
    return b"".join(parts) + field_bytes(11, value("x")) + field_bytes(12, value("y"))


def model(body: bytes, *functions: bytes, domains: tuple[str, ...] = ("",)) -> bytes:
    opsets = b"".join(field_bytes(8, text(1, domain) + number(2, 18)) for domain in domains)
    return number(1, 8) + field_bytes(7, body) + opsets + b"".join(field_bytes(25, one) for one in functions)


def function(name: str, *nodes: bytes, domain: str = "f") -> bytes:
    body = b"".join(field_bytes(7, one) for one in nodes)
    opsets = b"".join(field_bytes(9, text(1, one) + number(2, 18)) for one in ("", domain))
    return text(1, name) + text(4, "a") + text(5, "b") + body + opsets + text(10, domain)


def with_tensor(*parts: bytes, dims: tuple[int, ...] = (2,), data_type: int = FLOAT) -> bytes:
    return model(graph(initializers=(tensor("w", dims, data_type, *parts),)))


def sound() -> bytes:
    return with_tensor(raw(1, 2))


def with_data(folder: Path, content: bytes, **entries: object) -> bytes:
    (folder / "w.bin").write_bytes(content)
    return with_tensor(external(**{"location": "w.bin", **entries}))


def _link(folder: Path) -> bytes:
    (folder.parent / "secret.bin").write_bytes(bytes(8))
    (folder / "w.bin").symlink_to(folder.parent / "secret.bin")
    return with_tensor(external(location="w.bin", offset=0, length=8))


def _hard_link(folder: Path) -> bytes:
    (folder.parent / "secret.bin").write_bytes(bytes(8))
    os.link(folder.parent / "secret.bin", folder / "w.bin")
    return with_tensor(external(location="w.bin", offset=0, length=8))


def _pipe(folder: Path) -> bytes:
    os.mkfifo(folder / "w.bin")
    return with_tensor(external(location="w.bin", offset=0, length=8))


def _nested(depth: int) -> bytes:
    body = graph(initializers=(tensor("w", (2,), FLOAT, raw(1, 2)),))
    for _ in range(depth):
        attribute = text(1, "then_branch") + field_bytes(6, body) + number(20, 5)
        body = graph(node("If", "x", "y", attribute))
    return model(body)


def _doubling(count: int) -> bytes:
    """Functions that each call the next one twice: 2 ** count nodes."""
    functions = [
        function(f"f{i}", node(f"f{i + 1}", "a", "c", domain="f"), node(f"f{i + 1}", "c", "b", domain="f"))
        for i in range(count)
    ]
    last = function(f"f{count}", node("Identity", "a", "b"))
    return model(graph(node("f0", "x", "y", domain="f")), *functions, last, domains=("", "f"))


def _recursive() -> bytes:
    return model(
        graph(node("f", "x", "y", domain="f")),
        function("f", node("g", "a", "b", domain="f")),
        function("g", node("f", "a", "b", domain="f")),
        domains=("", "f"),
    )


def _attribute(*parts: bytes) -> bytes:
    attribute = text(1, "value") + field_bytes(5, tensor("c", (2,), FLOAT, *parts)) + number(20, 4)
    return model(graph(node("Constant", "", "w", attribute), node("Add", "x w", "y")))


def _in_function(*parts: bytes) -> bytes:
    attribute = text(1, "value") + field_bytes(5, tensor("c", (2,), FLOAT, *parts)) + number(20, 4)
    body = function("f", node("Constant", "", "c", attribute), node("Add", "a c", "b"))
    return model(graph(node("f", "x", "y", domain="f")), body, domains=("", "f"))


def _sparse(*parts: bytes) -> bytes:
    values = field_bytes(1, tensor("w", (1,), FLOAT, *parts))
    indices = field_bytes(2, tensor("i", (1,), INT64, field_bytes(9, bytes(8))))
    return model(graph(sparse=(values + indices + number(3, 2),)))


# Name -> (the code that `verify` names, what makes the file in a folder).
FILES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "empty": ("OX001", lambda _: b""),
    "not-protobuf": ("OX001", lambda _: b"\xff" * 64),
    "cut-off": ("OX001", lambda _: sound()[:-9]),
    "two-graphs": ("OX001", lambda _: model(graph(initializers=(tensor("w", (2,), FLOAT, raw(1, 2)),))) + sound()),
    "raw-and-float-data": ("OX002", lambda _: with_tensor(raw(1, 2), field_bytes(4, struct.pack("<2f", 3, 4)))),
    "raw-and-external": ("OX002", lambda f: _both(f)),
    "raw-twice": ("OX002", lambda _: with_tensor(raw(1, 2), raw(3, 4))),
    "attribute-raw-and-float": ("OX002", lambda _: _attribute(raw(1, 2), field_bytes(4, struct.pack("<2f", 3, 4)))),
    "function-raw-and-float": ("OX002", lambda _: _in_function(raw(1, 2), field_bytes(4, struct.pack("<2f", 3, 4)))),
    "sparse-raw-and-float": ("OX002", lambda _: _sparse(raw(1), field_bytes(4, struct.pack("<f", 3)))),
    "too-few-bytes": ("OX003", lambda _: with_tensor(raw(1), dims=(2,))),
    "shape-beyond-bytes": ("OX003", lambda _: with_tensor(raw(1, 2), dims=(2**40, 2**40))),
    "negative-axis": ("OX003", lambda _: with_tensor(raw(1, 2), dims=(-2,))),
    "no-values": ("OX003", lambda _: with_tensor(dims=(2**33,))),
    "unknown-type": ("OX003", lambda _: with_tensor(raw(1, 2), data_type=99)),
    "values-of-another-type": ("OX003", lambda _: with_tensor(field_bytes(7, b"\x01\x02"))),
    "attribute-injection": ("OX004", lambda f: with_data(f, bytes(8), offset=0, length=8, __class__="x")),
    "location-twice": ("OX004", lambda f: _twice(f)),
    "parent-folder": ("OX005", lambda _: with_tensor(external(location="../secret.bin", offset=0, length=8))),
    "inner-parent": ("OX005", lambda _: with_tensor(external(location="a/../../secret.bin", offset=0, length=8))),
    "absolute": ("OX005", lambda _: with_tensor(external(location="/etc/hostname", offset=0, length=8))),
    "backslash": ("OX005", lambda _: with_tensor(external(location="..\\secret.bin", offset=0, length=8))),
    "memory-address": ("OX005", lambda _: with_tensor(external(location="*/_ORT_MEM_ADDR_/*", offset=4096, length=8))),
    "attribute-parent": ("OX005", lambda _: _attribute(external(location="../secret.bin", offset=0, length=8))),
    "function-parent": ("OX005", lambda _: _in_function(external(location="../secret.bin", offset=0, length=8))),
    "sparse-parent": ("OX005", lambda _: _sparse(external(location="../secret.bin", offset=0, length=4))),
    "beyond-the-end": ("OX006", lambda f: with_data(f, bytes(8), offset=4, length=8)),
    "negative-offset": ("OX006", lambda f: with_data(f, bytes(8), offset=-8, length=8)),
    "length-of-another-shape": ("OX006", lambda f: with_data(f, bytes(64), offset=0, length=64)),
    "offset-that-overflows": ("OX006", lambda f: with_data(f, bytes(8), offset=2**63 - 4, length=8)),
    "symbolic-link": ("OX007", _link),
    "hard-link": ("OX007", _hard_link),
    "named-pipe": ("OX007", _pipe),
    "unknown-domain": ("OX008", lambda _: model(graph(node("Run", "x", "y", domain="com.evil")))),
    "recursive-function": ("OX009", lambda _: _recursive()),
    "function-twice": ("OX009", lambda _: model(
        graph(node("f", "x", "y", domain="f")), function("f", node("Neg", "a", "b")),
        function("f", node("Abs", "a", "b")), domains=("", "f"),
    )),
    "doubling-functions": ("OX010", lambda _: _doubling(40)),
    "deep-graphs": ("OX010", lambda _: _nested(200)),
    "two-weights-of-a-name": ("OX011", lambda _: model(
        graph(initializers=(tensor("w", (2,), FLOAT, raw(1, 2)), tensor("w", (2,), FLOAT, raw(3, 4))))
    )),
}  # fmt: skip


def _both(folder: Path) -> bytes:
    (folder / "w.bin").write_bytes(bytes(8))
    return with_tensor(raw(1, 2), external(location="w.bin", offset=0, length=8))


def _twice(folder: Path) -> bytes:
    (folder / "w.bin").write_bytes(bytes(8))
    return with_tensor(external(location="w.bin", offset=0, length=8), external(location="../secret.bin"))
