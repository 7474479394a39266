"""Compare the weights of a graph that was made from another one: quantized, fused, optimized, with static shapes.

Names may be new there, so a weight is also found by its values: as it is, with its axes in another order, or as a part
of a weight that several were packed into. Quantized weights keep their names, and no element may be further away than
half a step; where activations were smoothed, of the weight with its rows multiplied by the powers of two that divide
the activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.ledger import Ledger, Proof, WeightProof
from onnxport.formats.graph_tensors import FileTensor, graph_tensors
from onnxport.graph.quantization.smoothing import SMOOTHING
from onnxport.verification.ledger.arrays import (
    Named,
    equal,
    is_power_of_two,
    packed_pieces,
    scaled_by_channel,
    transform_between,
)
from onnxport.verification.ledger.folded import FoldedValues
from onnxport.verification.ledger.prove import is_small, wrong_weights
from onnxport.verification.ledger.quantized import (
    BlockNames,
    block_fault,
    column_fault,
    kept_fault,
    level_fault,
    quantized_parts,
    smoothed_fault,
)


def prove_derived(bases: Sequence[Path], target: Path) -> Ledger:
    """Compare the graph in `target` with those that it was made from.

    Args:
        bases: graph files, with their data files beside them.
        target: a graph file.

    Raises:
        VerificationError: a weight is not one of theirs; the first ones are named.
        FolderError: bytes are missing.
    """
    of_bases = [graph_tensors(base) for base in bases]
    known = _Known([tensor for tensors in of_bases for tensor in tensors])
    weights: dict[str, WeightProof] = {}
    sizes: dict[str, int] = {}
    wrong: list[str] = []
    tensors = graph_tensors(target)
    left: list[FileTensor] = []
    folded = FoldedValues(bases, of_bases)
    parts = quantized_parts(tensors, known.by_name)
    smoothings = [one for one in tensors if one.name.endswith(SMOOTHING) and is_power_of_two(one.array())]
    for tensor in tensors:
        if tensor.name in parts:
            proof, fault = _quantized(parts[tensor.name], tensor, known, smoothings)
            wrong += [fault] if fault else []
        elif tensor in smoothings:
            proof = WeightProof(Proof.COMPUTED, "powers of two", "ranges of an activation")
        else:
            found = known.find(tensor) or known.find_half(tensor)
            if found is None and (known.changed(tensor) or not is_small(tensor)):
                behind = folded.weights_behind(tensor)
                if behind is None:
                    left.append(tensor)
                    continue
                known.held.update(behind)
                found = WeightProof(Proof.COMPUTED, "computed ahead of time", " and ".join(behind))
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


def _quantized(
    names: BlockNames, tensor: FileTensor, known: _Known, smoothings: Sequence[FileTensor]
) -> tuple[WeightProof, str | None]:
    base = known.quantized_from(names)
    known.held.add(names.base)
    if names.is_kept:
        fault = kept_fault(names, base)[0] if tensor.name == names.data.name else None
        return WeightProof(Proof.TRANSFORMED, f"integers of the checkpoint, {names.bits} bits", names.base), fault
    if tensor.name != names.data.name:
        return WeightProof(Proof.BOUNDED, f"scale of {names.data.name}", names.base), None
    judge = level_fault if names.has_levels else block_fault if names.bits else column_fault
    fault, error = judge(names, base)
    bits = names.bits or 8 * names.data.nbytes // max(1, names.data.elements)
    scaled = ""
    if fault is not None and judge is column_fault:
        for smoothing in smoothings:
            other, distance = smoothed_fault(names, base, smoothing)
            if other is None:
                fault, error, scaled = None, distance, f", rows divided by {smoothing.name}"
                break
    return WeightProof(Proof.BOUNDED, f"quantized to {bits} bits, largest error {error:.3g}{scaled}", names.base), fault


class _Known:
    """The weights of the graphs that the new one was made from.

    Args:
        tensors: all of them.

    Attributes:
        by_name: by their names, which two graphs may give to different weights.
        held: names of those that were found in the new graph.
    """

    def __init__(self, tensors: list[FileTensor]) -> None:
        self.tensors = tensors
        self.by_name: dict[str, list[FileTensor]] = {}
        self.held: set[str] = set()
        self._by_size: dict[tuple[int, int], list[FileTensor]] = {}
        for tensor in tensors:
            self.by_name.setdefault(tensor.name, []).append(tensor)
            self._by_size.setdefault((tensor.dtype, tensor.elements), []).append(tensor)

    def quantized_from(self, names: BlockNames) -> FileTensor:
        """The weight that was quantized: of several with its name the one with as many elements, if there is one."""
        named = self.by_name[names.base]
        return next((one for one in named if one.elements == names.data.elements), named[0])

    def _alike(self, tensor: FileTensor) -> list[FileTensor]:
        """Those of the same name, type and shape."""
        named = self.by_name.get(tensor.name, ())
        return [one for one in named if one.dtype == tensor.dtype and one.shape == tensor.shape]

    def changed(self, tensor: FileTensor) -> bool:
        """Whether there is a weight of this name, type and shape, with floating values or quantized ones."""
        return bool(self._alike(tensor)) and tensor.elements > 1 and _is_weight(tensor.array())

    def find_half(self, tensor: FileTensor) -> WeightProof | None:
        """The float32 weight that `tensor` is, rounded to float16; None for other types and other values."""
        import onnx_ir as ir

        if tensor.dtype != ir.DataType.FLOAT16:
            return None
        for own in self.by_name.get(tensor.name.removesuffix(_HALF_ENDING), ()):
            base = own.array()
            if own.dtype == ir.DataType.FLOAT and equal(tensor.array(), _in_half(base)):
                self.held.add(own.name)
                error = float(np.abs(tensor.array().astype(np.float64) - base).max(initial=0))
                return WeightProof(Proof.BOUNDED, f"rounded to float16, largest error {error:.3g}", own.name)
        return None

    def find(self, tensor: FileTensor) -> WeightProof | None:
        """The weight that `tensor` is, under its own name or another; None where there is none."""
        array = tensor.array()
        alike = self._alike(tensor)
        for own in alike:
            if equal(array, own.array()):
                self.held.add(own.name)
                return WeightProof(Proof.EXACT, "as is", own.name)
        if alike and not is_small(tensor):
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


_HALF_ENDING = ".half"
# Elements of a constant whose numbers stand for "masked", and what they become.
_CLIPPED_UP_TO, _CLIPPED_FROM, _CLIPPED_TO = 64, 65504 / 4, 30000.0


def _in_half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The nearest float16 of every element; constants of few elements have no number beyond 30000."""
    if 0 < array.size <= _CLIPPED_UP_TO and np.abs(array).max() > _CLIPPED_FROM:
        array = np.clip(array, -_CLIPPED_TO, _CLIPPED_TO)
    return np.asarray(array, np.float16)


def _is_weight(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize == 1)
