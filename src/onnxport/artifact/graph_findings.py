"""What is wrong with an ONNX file from elsewhere, found before ONNX Runtime or onnx reads it.

A file can be made so that two readers see two models (a tensor with values in two fields), so that a reader opens files
outside of the folder (external data), or so that it takes all memory (functions that call functions). Each rule has a
code; docs/reference/findings.md lists them, and tests/attacks has a file for each.

References: CVE-2022-25882, CVE-2024-27318, CVE-2024-5187, CVE-2025-51480, CVE-2026-27489, CVE-2026-34445,
CVE-2026-34446, CVE-2026-28500.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxport.artifact.folder import Folder
from onnxport.artifact.manifest import Component
from onnxport.checkpoints.links import is_inside
from onnxport.errors import FolderError
from onnxport.formats.onnx_graph import Call, LimitError, OnnxGraph, Tensor, read_onnx

# Number of the type in onnx.proto -> bits of an element, and the fields that may hold its values.
_TYPES: dict[int, tuple[int, tuple[str, ...]]] = {
    1: (32, ("float_data",)), 2: (8, ("int32_data",)), 3: (8, ("int32_data",)), 4: (16, ("int32_data",)),
    5: (16, ("int32_data",)), 6: (32, ("int32_data",)), 7: (64, ("int64_data",)), 8: (0, ("string_data",)),
    9: (8, ("int32_data",)), 10: (16, ("int32_data",)), 11: (64, ("double_data",)), 12: (32, ("uint64_data",)),
    13: (64, ("uint64_data",)), 14: (64, ("float_data",)), 15: (128, ("double_data",)), 16: (16, ("int32_data",)),
    17: (8, ("int32_data",)), 18: (8, ("int32_data",)), 19: (8, ("int32_data",)), 20: (8, ("int32_data",)),
    21: (4, ("int32_data",)), 22: (4, ("int32_data",)), 23: (4, ("int32_data",)), 24: (8, ("int32_data",)),
    25: (2, ("int32_data",)), 26: (2, ("int32_data",)), 27: (6, ("int32_data",)), 28: (6, ("int32_data",)),
}  # fmt: skip
_STRING, _COMPLEX = 8, (14, 15)
_KEYS = frozenset({"location", "offset", "length", "checksum"})
_DOMAINS = frozenset({
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft",
    "com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc",
})  # fmt: skip
_MOST_NODES = 2_000_000  # with functions put in the places of their calls
_NUMBER = re.compile(r"[0-9]{1,18}")
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that a trustworthy consumer of a graph refuses or reports.

    Attributes:
        code: "OX002".
        file: name of the graph.
        message: what it is, one line.
        refused: whether the graph is not run; else only `verify --strict` tells.
    """

    code: str
    file: str
    message: str
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.code} {self.file}: {self.message}"


@dataclass
class _Place:
    """The file that is looked at.

    Attributes:
        recorded: sha256 of the files beside it, by name, from the manifest; None for a graph without a folder.
        data: data file -> its size, of those that were opened.
    """

    file: Path
    recorded: Mapping[str, str] | None
    data: dict[str, int | None] = field(default_factory=dict)


def find_in_folder(folder: Folder) -> list[Finding]:
    """The findings of all graphs of a folder.

    Raises:
        OSError: a graph cannot be read.
    """
    return [
        finding
        for component in folder.manifest.components
        for finding in find_faults(folder.file(component), recorded_beside(folder, component))
    ]


def recorded_beside(folder: Folder, component: Component) -> dict[str, str]:
    """Name -> sha256 of the files beside a graph of the folder, as the manifest has them."""
    start = component.file.rpartition("/")[0]
    start = f"{start}/" if start else ""
    files = folder.manifest.files.items()
    return {path.removeprefix(start): digest for path, digest in files if path.startswith(start)}


def require_sound(
    file: Path,
    recorded: Mapping[str, str] | None = None,
    *,
    linked: bool = True,
    accepted: frozenset[str] = frozenset(),
) -> None:
    """Refuse a graph that must not be run.

    Args:
        file: the `.onnx` file.
        recorded: sha256 of the files beside it, by name.
        linked: accept data files with a second name (a hard link) where nothing is recorded.
        accepted: codes that do not matter to the caller.

    Raises:
        FolderError: names what was found, with its codes.
    """
    faults = find_faults(file, recorded, linked=linked)
    refuse(file, [finding for finding in faults if finding.code not in accepted])


def refuse(path: Path, found: Sequence[Finding], *, strict: bool = False) -> None:
    """Raise an error if there are findings that matter.

    Args:
        path: the folder or graph, for the message.
        found: the findings.
        strict: all of them matter.

    Raises:
        FolderError: names the first ones, with their codes.
    """
    bad = [finding for finding in found if finding.refused or strict]
    if bad and bad[0].code == "OX001":
        raise FolderError(
            f"{bad[0].file} is {bad[0].message} (OX001). It was not run.",
            hint="Copy it again, or convert the model again.",
        )
    if bad:
        shown = "; ".join(map(str, bad[:_SHOWN])) + (f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        raise FolderError(
            f"{path.name} is not sound: {shown}. It was not run.",
            hint=f"Do not use it. `onnxport verify --strict {path}` lists all that was found.",
        )


def find_faults(file: Path, recorded: Mapping[str, str] | None = None, *, linked: bool = False) -> list[Finding]:
    """Everything that a trustworthy consumer checks of a graph and its data files, without running it.

    Args:
        file: the `.onnx` file.
        recorded: sha256 of the files beside it, by name: data files with a second name are accepted if they have it.
        linked: accept data files with a second name where nothing is recorded.

    Raises:
        OSError: it cannot be read.
    """
    if not file.is_file():  # opening a pipe would wait for who writes into it
        return [Finding("OX001", file.name, "no file")]
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size == 0:
                raise ValueError("it is empty")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                graph = read_onnx(data)
    except LimitError as error:
        return [Finding("OX010", file.name, str(error))]
    except ValueError as error:
        return [Finding("OX001", file.name, f"truncated, or not an ONNX graph: {error}")]
    place = _Place(file, recorded)
    found = [*_of_model(graph), *_of_calls(graph)]
    for tensor in graph.tensors:
        found += _of_tensor(tensor)
        if tensor.external or tensor.is_external:
            found += _of_external(tensor, place, linked=linked)
    return [Finding(code, file.name, message, refused) for code, message, refused in found]


_Found = tuple[str, str, bool]


def _of_model(graph: OnnxGraph) -> Iterator[_Found]:
    if graph.graphs != 1 or not graph.opsets or not graph.outputs:
        what = f"{graph.graphs} graphs" if graph.graphs != 1 else "no outputs" if graph.opsets else "no opsets"
        yield "OX001", f"truncated, or not an ONNX graph: it has {what}", True
    for name, count in graph.initializers.items():
        if count > 1:
            yield "OX011", f"{count} initializers have the name {name!r}", True
        if not name:
            yield "OX011", "an initializer has no name", False
    if len(set(graph.opsets)) < len(graph.opsets) and not graph.functions:
        yield "OX012", "a domain is imported twice", False
    used = {"" if domain == "ai.onnx" else domain for domain, _ in graph.calls}
    for domain in sorted(used - {"" if name == "ai.onnx" else name for name in graph.opsets}):
        yield "OX012", f"the domain {domain!r} is used and not imported", False


def _of_calls(graph: OnnxGraph) -> Iterator[_Found]:
    for domain, name in graph.twice:
        yield "OX009", f"the function {domain}.{name} is defined twice", True
    own = {domain for domain, _ in graph.functions}
    every = [graph.calls, *graph.functions.values()]
    for domain in sorted({domain for calls in every for domain, _ in calls} - _DOMAINS - own):
        yield "OX008", f"operators of the unknown domain {domain!r}", True
    for key in graph.functions:
        if key[0] in ("", "ai.onnx"):
            yield "OX009", f"the function {key[1]!r} takes the place of an operator of ONNX", False
    sizes = _expanded(graph)
    if sizes is None:
        yield "OX009", "a function calls itself, directly or through others", True
    elif sizes > _MOST_NODES:
        yield "OX010", f"it has {min(sizes, 10**15):,} nodes with its functions put in place", True


def _expanded(graph: OnnxGraph) -> int | None:
    """Nodes of the main graph with all functions put in place; None where a function leads to itself."""
    sizes: dict[Call, int] = {}
    for start in graph.functions:
        stack: list[tuple[Call, list[Call]]] = [(start, list(graph.functions[start]))]
        open_now = {start}
        while stack:
            key, left = stack[-1]
            while left and (left[-1] not in graph.functions or left[-1] in sizes):
                left.pop()
            if left:
                if left[-1] in open_now:
                    return None
                open_now.add(left[-1])
                stack.append((left[-1], list(graph.functions[left[-1]])))
                continue
            calls = graph.functions[key]
            sizes[key] = min(sum(count * sizes.get(call, 1) for call, count in calls.items()), 2**62)
            open_now.discard(key)
            stack.pop()
    return sum(count * sizes.get(call, 1) for call, count in graph.calls.items())


def _of_tensor(tensor: Tensor) -> Iterator[_Found]:
    where = tensor.where
    if tensor.data_type not in _TYPES:
        yield "OX003", f"{where} has the unknown type {tensor.data_type}", True
        return
    if any(size >= 2**63 for size in tensor.dims):
        yield "OX003", f"{where} has a negative axis", True
        return
    if tensor.segmented:
        yield "OX002", f"{where} is one segment of a tensor", True
    fields = [*tensor.values, *(["external_data"] if tensor.external or tensor.is_external else [])]
    if tensor.repeated or len(fields) > 1:
        twice = ", ".join([*fields, *(f"{name} twice" for name in tensor.repeated)])
        yield "OX002", f"{where} holds its values more than once ({twice}): readers may see different models", True
    bits, allowed = _TYPES[tensor.data_type]
    count = math.prod(tensor.dims)
    if not fields and count:
        yield "OX003", f"{where} has the shape {tensor.dims} and no values", True
    for name, held in tensor.values.items():
        wanted = _wanted(tensor.data_type, bits, count, raw=name == "raw_data")
        if (name != "raw_data" and name not in allowed) or held not in wanted:
            unit = "bytes" if name == "raw_data" else "values"
            yield "OX003", f"{where} of shape {tensor.dims} has {max(held, 0)} {unit} in {name}", True


def _wanted(data_type: int, bits: int, count: int, *, raw: bool) -> tuple[int, ...]:
    """How many bytes of raw_data, or values of another field, hold `count` elements."""
    if raw:
        return (-(-count * bits // 8),) if data_type != _STRING else ()
    if data_type in _COMPLEX:
        return (2 * count,)
    return (count,) if bits >= 8 or not bits else (-(-count * bits // 8), count)


def _of_external(tensor: Tensor, place: _Place, *, linked: bool) -> Iterator[_Found]:
    where, entries = tensor.where, dict(tensor.external)
    if len(entries) < len(tensor.external) or not entries.keys() <= _KEYS:
        names = ", ".join(sorted({repr(key[:40]) for key, _ in tensor.external}))
        yield "OX004", f"{where} has unknown or repeated entries of external data: {names}", True
        return
    location = entries.get("location", "")
    if not is_plain_location(location):
        yield "OX005", f"{where} is in {location[:200]!r}, which is no path inside the folder", True
        return
    numbers = {key: entries[key] for key in ("offset", "length") if key in entries}
    if not all(_NUMBER.fullmatch(text) for text in numbers.values()):
        yield "OX006", f"{where} has the offset or length {' and '.join(numbers.values())[:80]!r}", True
        return
    if location not in place.data:
        place.data[location] = None
        size, faults = _data_file(place, location, linked=linked)
        place.data[location] = size
        yield from faults
    size = place.data[location]
    if size is None or tensor.data_type not in _TYPES:
        return
    bits = _TYPES[tensor.data_type][0]
    needed = -(-math.prod(tensor.dims) * bits // 8)
    offset = int(numbers.get("offset", 0))
    length = int(numbers["length"]) if "length" in numbers else size - offset
    if tensor.data_type == _STRING or length != needed or offset + length > size or length < 0:
        what = f"bytes {offset} to {offset + length} of {location}, which has {size}"
        yield "OX006", f"{where} needs {needed} bytes and is {what}", True


def is_plain_location(location: str) -> bool:
    """Whether external data is named by a relative path that stays in the folder, on every system.

    ONNX Runtime takes a location that begins with `*/_ORT_MEM_ADDR_/*` for an address in memory.
    """
    parts = location.split("/")
    return not re.search(r'[\\:*?"<>|\x00-\x1f]', location) and not any(part in ("", ".", "..") for part in parts)


def _data_file(place: _Place, location: str, *, linked: bool) -> tuple[int | None, list[_Found]]:
    """The size of a data file, and what is wrong with it; looked at through its descriptor."""
    path = place.file.parent / location
    if not is_inside(path, place.file.parent):
        return None, [("OX007", f"{location} is a link out of the folder", True)]
    try:
        descriptor = os.open(path.resolve(), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None, [("OX013", f"the data file {location} is not there", False)]
    except OSError as error:
        return None, [("OX006", f"the data file {location} cannot be opened ({error.strerror})", True)]
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None, [("OX007", f"{location} is no regular file", True)]
        if status.st_nlink > 1 and not _is_recorded(place, location, descriptor, linked=linked):
            what = f"{location} has {status.st_nlink} names (hard links), so it may be another file of yours"
            return status.st_size, [("OX007", what, True)]
        return status.st_size, []
    finally:
        os.close(descriptor)


def _is_recorded(place: _Place, location: str, descriptor: int, *, linked: bool) -> bool:
    """Whether whoever wrote the manifest knew the content: then it is no other file's.

    `convert --link-weights` gives the checkpoint's files a second name, and the manifest has their sha256.
    """
    if place.recorded is None:
        return linked
    digest = place.recorded.get(location)
    if digest is None:
        return False
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest
