"""Compare the weights of a graph that was made from another one: quantized, fused, optimized, with static shapes.

Names may be new there, so a weight is also found by its values: as it is, with its axes in another order, or as a part
of a weight that several were packed into. Quantized weights keep their names, and no element may be further away than
half a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.ledger import Ledger, Proof, WeightProof
from onnxport.verification.ledger.graph_file import FileTensor, graph_tensors
from onnxport.verification.ledger.prove import is_small, wrong_weights
from onnxport.verification.ledger.quantized import BlockNames, block_fault, column_fault, quantized_parts

Array = np.ndarray[Any, Any]
_MOST_AXES = 4  # of a weight whose axes are tried in every order
_SAMPLE = 64
_RELATIVE = 1e-5  # of a weight that was scaled by channel in float32


def prove_derived(bases: Sequence[Path], target: Path) -> Ledger:
    """Compare the graph in `target` with those that it was made from.

    Args:
        bases: graph files, with their data files beside them.
        target: a graph file.

    Raises:
        VerificationError: a weight is not one of theirs; the first ones are named.
        FolderError: bytes are missing.
    """
    known = _Known([tensor for base in bases for tensor in graph_tensors(base)])
    weights: dict[str, WeightProof] = {}
    sizes: dict[str, int] = {}
    wrong: list[str] = []
    tensors = graph_tensors(target)
    left: list[FileTensor] = []
    parts = quantized_parts(tensors, known.by_name)
    for tensor in tensors:
        if tensor.name in parts:
            proof, fault = _quantized(parts[tensor.name], tensor, known)
            wrong += [fault] if fault else []
        else:
            found = known.find(tensor)
            if found is None and not is_small(tensor):
                left.append(tensor)
                continue
            proof = found or WeightProof(Proof.UNPROVED, "computed", "sizes and constants")
        _add(weights, sizes, tensor, proof)
    lost = [tensor for tensor in known.tensors if tensor.name not in known.held and not is_small(tensor)]
    for tensor in left:
        origin = known.scaled(tensor, lost)
        if origin is not None:
            proof = WeightProof(Proof.COMPUTED, "scaled by channel", origin)
        else:
            proof = WeightProof(Proof.UNPROVED, "computed", "tables of the new graph")
            alike = next((one.name for one in lost if one.elements == tensor.elements), None)
            if alike is not None:
                wrong.append(f"{tensor.name} {list(tensor.shape)} is no weight of {bases[0].name}, which has {alike}")
        _add(weights, sizes, tensor, proof)
    if wrong:
        raise wrong_weights(target, wrong)
    read = sum(one.length for one in (*tensors, *known.tensors))
    return Ledger(f"graph {bases[0].stem}", dict(sorted(weights.items())), dict(sorted(sizes.items())), read)


def _add(weights: dict[str, WeightProof], sizes: dict[str, int], tensor: FileTensor, proof: WeightProof) -> None:
    if proof.proof is Proof.UNPROVED and tensor.elements <= 1:
        return
    weights[tensor.name] = proof
    sizes[proof.proof] = sizes.get(proof.proof, 0) + tensor.nbytes


def _quantized(names: BlockNames, tensor: FileTensor, known: _Known) -> tuple[WeightProof, str | None]:
    base = known.by_name[names.base]
    known.held.add(names.base)
    if tensor.name != names.data.name:
        return WeightProof(Proof.BOUNDED, f"scale of {names.data.name}", names.base), None
    fault, error = (block_fault if names.bits else column_fault)(names, base)
    bits = names.bits or 8
    return WeightProof(Proof.BOUNDED, f"quantized to {bits} bits, largest error {error:.3g}", names.base), fault


class _Known:
    """The weights of the graphs that the new one was made from.

    Args:
        tensors: all of them.

    Attributes:
        by_name: by their names; of equal names the first.
        held: names of those that were found in the new graph.
    """

    def __init__(self, tensors: list[FileTensor]) -> None:
        self.tensors = tensors
        self.by_name: dict[str, FileTensor] = {}
        self.held: set[str] = set()
        self._by_size: dict[tuple[int, int], list[FileTensor]] = {}
        for tensor in tensors:
            self.by_name.setdefault(tensor.name, tensor)
            self._by_size.setdefault((tensor.dtype, tensor.elements), []).append(tensor)

    def find(self, tensor: FileTensor) -> WeightProof | None:
        """The weight that `tensor` is, under its own name or another; None where there is none."""
        own = self.by_name.get(tensor.name)
        if own is not None and own.dtype == tensor.dtype and own.shape == tensor.shape:
            if _equal(tensor.array(), own.array()):
                self.held.add(own.name)
                return WeightProof(Proof.EXACT, "as is", own.name)
            if not is_small(tensor):
                return None
        for other in self._by_size.get((tensor.dtype, tensor.elements), ()):
            transform = _transform(tensor.array(), other.array())
            if transform is not None:
                self.held.add(other.name)
                proof = Proof.EXACT if transform == "as is" else Proof.TRANSFORMED
                return WeightProof(proof, transform, other.name)
        return None if is_small(tensor) else self._packed(tensor)

    def _packed(self, tensor: FileTensor) -> WeightProof | None:
        """Several weights side by side."""
        whole = tensor.array()
        for axis in dict.fromkeys((whole.ndim - 1, 0)):
            names = list(self._pieces(np.moveaxis(whole, axis, -1), tensor.dtype, axis))
            if names:
                self.held.update(names)
                return WeightProof(Proof.TRANSFORMED, f"packed along axis {axis}", " and ".join(names))
        return None

    def _pieces(self, whole: Array, dtype: int, axis: int) -> Iterator[str]:
        found: list[str] = []
        position = 0
        while position < whole.shape[-1]:
            for other in self.tensors:
                if other.dtype != dtype or len(other.shape) != whole.ndim or other.elements < 2:
                    continue
                piece = np.moveaxis(other.array(), axis, -1)
                width = piece.shape[-1]
                if piece.shape[:-1] != whole.shape[:-1] or position + width > whole.shape[-1] or not width:
                    continue
                if _equal(whole[..., position : position + width], piece):
                    found.append(other.name)
                    position += width
                    break
            else:
                return
        yield from found

    def scaled(self, tensor: FileTensor, lost: Sequence[FileTensor]) -> str | None:
        """Name of a weight of which `tensor` is a multiple, with one factor for each index of one axis."""
        found = tensor.array()
        for other in lost:
            base = other.array()
            if base.shape != found.shape or base.ndim < 2:
                continue
            for axis in range(base.ndim):
                ours, theirs = (np.moveaxis(one, axis, 0).reshape(one.shape[axis], -1) for one in (found, base))
                largest = np.abs(theirs).argmax(1)
                rows = np.arange(len(theirs))
                with np.errstate(divide="ignore", invalid="ignore"):
                    factors = ours[rows, largest] / theirs[rows, largest]
                near = np.abs(ours - theirs * factors[:, None]) <= _RELATIVE * np.abs(ours).max(1, keepdims=True)
                if np.isfinite(factors).all() and near.all():
                    return other.name
        return None


def _equal(one: Array, other: Array) -> bool:
    """Whether two arrays have the same bytes; a sample first."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.ndim and not _same(one[:1].reshape(-1)[:_SAMPLE], other[:1].reshape(-1)[:_SAMPLE]):
        return False
    step = max(1, 2**21 // max(1, one[:1].size)) if one.ndim else 1
    return (
        all(_same(one[at : at + step], other[at : at + step]) for at in range(0, len(one), step))
        if one.ndim
        else (_same(one, other))
    )


def _same(one: Array, other: Array) -> bool:
    return one.tobytes() == other.tobytes()


def _transform(found: Array, base: Array) -> str | None:
    if found.shape == base.shape and _equal(found, base):
        return "as is"
    if 2 <= base.ndim <= _MOST_AXES:
        for order in list(permutations(range(base.ndim)))[1:]:
            moved = base.transpose(order)
            if moved.shape == found.shape and _equal(found, moved):
                return " ".join(("transposed", *map(str, order)))
    if found.shape != base.shape and _equal(found.reshape(-1), base.reshape(-1)):
        return " ".join(("reshaped", *map(str, found.shape)))
    return None
