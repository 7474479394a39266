"""Compare every weight of a written graph with what it must be, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.artifact.ledger import Ledger, Proof, WeightProof
from onnxport.errors import VerificationError
from onnxport.formats.graph_tensors import FileTensor, graph_tensors
from onnxport.verification.ledger.expected import ExpectedWeight, folded_norm
from onnxport.verification.ledger.source_weights import SourceWeights

if TYPE_CHECKING:
    from onnxport.weights.lazy import LazyTensor

# Elements. A constant of this size is no weight: the exporter makes it of shapes, axes and numbers of the code.
_SMALL = 64
# Of results that were computed again: units in the last place.
_ROUNDING = 16
_SHOWN = 3

Advance = Callable[[int], None]


def prove_weights(
    file: Path, expected: Mapping[str, ExpectedWeight], source: SourceWeights, advance: Advance | None = None,
    accepted: Collection[str] = (),
) -> Ledger:  # fmt: skip
    """Compare the weights of the graph in `file`.

    Args:
        file: a graph that was written, with its data files beside it.
        expected: what each weight must be, by its name.
        source: reads the checkpoint.
        advance: receives the number of bytes of each weight.
        accepted: names of weights that need no explanation.

    Raises:
        VerificationError: a weight has other values, or nothing explains it; the first ones are named.
        FolderError: bytes are missing.
    """
    weights: dict[str, WeightProof] = {}
    sizes: dict[str, int] = {}
    wrong: list[str] = []
    read = 0
    for tensor in graph_tensors(file):
        size = tensor.nbytes
        read += size
        entry = expected.get(tensor.name)
        if entry is None:
            if not is_small(tensor) and tensor.name not in accepted:
                wrong.append(f"nothing says where {tensor.name} {list(tensor.shape)} comes from")
            proof = WeightProof(Proof.UNPROVED, "computed by the exporter", "sizes and constants")
        else:
            fault = _fault(tensor, entry, source)
            if fault:
                wrong.append(fault)
            read += size if entry.record is not None else 0
            proof = WeightProof(entry.proof, entry.transform, entry.origins)
        if entry is not None or tensor.elements > 1:
            weights[tensor.name] = proof
            sizes[proof.proof] = sizes.get(proof.proof, 0) + size
        if advance is not None:
            advance(size)
    if wrong:
        raise wrong_weights(file, wrong)
    stored = any(entry.proof in (Proof.EXACT, Proof.TRANSFORMED) for entry in expected.values())
    against = "checkpoint" if source.reader is not None or stored else "model in memory"
    return Ledger(against, dict(sorted(weights.items())), dict(sorted(sizes.items())), read)


def wrong_weights(file: Path, wrong: list[str]) -> VerificationError:
    """The error for weights that are not what they should be."""
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    count = "A weight" if len(wrong) == 1 else f"{len(wrong)} weights"
    return VerificationError(
        f"{count} of {file.name} cannot be proved: {'; '.join(wrong[:_SHOWN])}{more}.",
        hint="Convert the model again. If it happens again, report this model.",
    )


def is_small(tensor: FileTensor) -> bool:
    """Whether it is a number of the graph's code and no weight: few elements, or whole numbers."""
    import onnx_ir as ir

    return tensor.elements <= _SMALL or not ir.DataType(tensor.dtype).is_floating_point()


def _fault(tensor: FileTensor, expected: ExpectedWeight, source: SourceWeights) -> str | None:
    """What is wrong with a weight, in words."""
    import onnx_ir as ir

    dtype = ir.DataType(tensor.dtype).numpy().name
    if dtype != expected.dtype or tensor.shape != expected.shape:
        return (
            f"{tensor.name} is {dtype} {list(tensor.shape)}, and {expected.origins} ({expected.transform}) is "
            f"{expected.dtype} {list(expected.shape)}"
        )
    if expected.sha256 is not None:
        digest = hashlib.sha256()
        for block in tensor.blocks():
            digest.update(block)
        same = digest.hexdigest() == expected.sha256
        return None if same else f"{tensor.name} is not {expected.origins} ({expected.transform})"
    if expected.record is not None:
        differing, first = _compare_record(tensor, expected.record, source)
    else:
        values = expected.values
        if values is None:
            assert expected.norm is not None
            values = folded_norm(source, expected.norm[0], is_bias=expected.norm[1])
        differing, first = _compare_rounded(tensor, values)
    if not differing:
        return None
    place = [int(index) for index in np.unravel_index(first, tensor.shape)] if tensor.shape else []
    return (
        f"{tensor.name} differs from {expected.origins} ({expected.transform}) in {differing:,} of "
        f"{tensor.elements:,} elements, the first at {place}"
    )


def _item(tensor: FileTensor) -> int:
    import onnx_ir as ir

    bits: int = ir.DataType(tensor.dtype).bitwidth
    return max(1, bits // 8)


def compare_bytes(found: Iterable[Any], wanted: Iterable[Any], item: int) -> tuple[int, int]:
    """(number of elements that differ, index of the first) of two streams of blocks, which may be cut differently.

    Args:
        found: blocks of bytes.
        wanted: blocks of bytes.
        item: bytes of an element.
    """
    differing, first, position = 0, -1, 0
    for one, other in _aligned(found, wanted):
        if not np.array_equal(one, other):
            count = min(len(one), len(other)) // item * item
            bad = (one[:count] != other[:count]).reshape(-1, item).any(1)
            rest = abs(len(one) - len(other)) // item
            if first < 0:
                first = (position + int(bad.argmax()) * item) // item if bad.any() else (position + count) // item
            differing += int(bad.sum()) + rest
        position += max(len(one), len(other))
    return differing, first


def _aligned(found: Iterable[Any], wanted: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Blocks of both streams that cover the same bytes; at an early end of one, the rest of the other."""
    ours, theirs = (_as_arrays(blocks) for blocks in (found, wanted))
    empty: np.ndarray[Any, Any] = np.empty(0, np.uint8)
    one, other = empty, empty
    while True:
        one = one if len(one) else next(ours, empty)
        other = other if len(other) else next(theirs, empty)
        if not len(one) or not len(other):
            break
        count = min(len(one), len(other))
        yield one[:count], other[:count]
        one, other = one[count:], other[count:]
    for rest in (one, *ours):
        if len(rest):
            yield rest, empty
    for rest in (other, *theirs):
        if len(rest):
            yield empty, rest


def _as_arrays(blocks: Iterable[Any]) -> Iterator[np.ndarray[Any, Any]]:
    for block in blocks:
        array = np.frombuffer(block, np.uint8)
        if len(array):
            yield array


def _compare_record(tensor: FileTensor, record: LazyTensor, source: SourceWeights) -> tuple[int, int]:
    from onnxport.weights.lazy import is_computed  # imports torch, which variables of TensorFlow do without

    if is_computed(record):
        return _compare_rounded(tensor, source.array(record))
    return compare_bytes(tensor.blocks(), source.blocks(record), _item(tensor))


def _compare_rounded(tensor: FileTensor, values: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Like `compare_bytes`, up to rounding where the values are floating."""
    found = np.frombuffer(tensor.bytes(), values.dtype.newbyteorder("<")).reshape(values.shape)
    if values.dtype.kind == "f":
        epsilon = np.finfo(values.dtype).eps
        near = np.abs(found.astype(np.float64) - values) <= _ROUNDING * epsilon * np.abs(values.astype(np.float64))
        same = near | (np.isnan(found) & np.isnan(values)) | (found == values)
    else:
        same = found == values
    bad = ~np.asarray(same).reshape(-1)
    return int(bad.sum()), int(bad.argmax()) if bad.any() else -1
