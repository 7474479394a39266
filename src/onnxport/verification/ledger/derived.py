"""Compare the weights of a graph that was made from another one: quantized, fused, optimized, with static shapes.

Names may be new there, so a weight is also found by its values: as it is, with its axes in another order, or as a part
of a weight that several were packed into. Quantized weights keep their names, and no element may be further away than
half a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxport.artifact.ledger import Ledger, Proof, WeightProof
from onnxport.verification.ledger.arrays import Named, equal, packed_pieces, scaled_by_channel, transform_between
from onnxport.verification.ledger.graph_file import FileTensor, graph_tensors
from onnxport.verification.ledger.prove import is_small, wrong_weights
from onnxport.verification.ledger.quantized import BlockNames, block_fault, column_fault, quantized_parts


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
            if found is None and (known.changed(tensor) or not is_small(tensor)):
                left.append(tensor)
                continue
            proof = found or WeightProof(Proof.UNPROVED, "computed", "sizes and constants")
        _add(weights, sizes, tensor, proof)
    unproved = {tensor.name for tensor in left}
    lost = [
        tensor for tensor in known.tensors
        if tensor.name not in known.held and (tensor.name in unproved or not is_small(tensor))
    ]  # fmt: skip
    channels: set[int] = set()
    for tensor in sorted(left, key=lambda one: -len(one.shape)):  # weights before their biases
        origin = next((one.name for one in lost if scaled_by_channel(tensor.array(), one.array())), None)
        if origin is not None:
            channels.update(tensor.shape)
            proof = WeightProof(Proof.COMPUTED, "scaled by channel", origin)
        elif len(tensor.shape) == 1 and tensor.shape[0] in channels:
            proof = WeightProof(Proof.COMPUTED, "bias of a scaled weight", "weights of the old graph")
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

    def changed(self, tensor: FileTensor) -> bool:
        """Whether there is a weight of this name, type and shape, with floating values."""
        own = self.by_name.get(tensor.name)
        alike = own is not None and own.dtype == tensor.dtype and own.shape == tensor.shape
        return alike and tensor.elements > 1 and tensor.array().dtype.kind == "f"

    def find(self, tensor: FileTensor) -> WeightProof | None:
        """The weight that `tensor` is, under its own name or another; None where there is none."""
        array = tensor.array()
        own = self.by_name.get(tensor.name)
        if own is not None and own.dtype == tensor.dtype and own.shape == tensor.shape:
            if equal(array, own.array()):
                self.held.add(own.name)
                return WeightProof(Proof.EXACT, "as is", own.name)
            if not is_small(tensor):
                return None
        for other in self._by_size.get((tensor.dtype, tensor.elements), ()):
            transform = transform_between(array, other.array())
            if transform is not None:
                self.held.add(other.name)
                proof = Proof.EXACT if transform == "as is" else Proof.TRANSFORMED
                return WeightProof(proof, transform, other.name)
        packed = (
            None if is_small(tensor) else packed_pieces(array, [Named(one.name, one.array()) for one in self.tensors])
        )
        if packed is None:
            return None
        self.held.update(packed[1])
        return WeightProof(Proof.TRANSFORMED, f"packed along axis {packed[0]}", " and ".join(packed[1]))
