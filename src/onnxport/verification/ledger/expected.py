"""What each weight of a graph must be: a tensor of the source after what the graph's passes did to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.artifact.ledger import Proof, WeightProof
from onnxport.graph.weight_history import BatchNorm, FoldedNode, Layout, WeightHistory
from onnxport.verification.ledger.source_weights import SourceWeights, describe_origins, numpy_type

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.weights.lazy import LazyTensor

# Elements: a folded operator's result is computed again up to this size.
_COMPUTED_UP_TO = 2**20


@dataclass(frozen=True)
class ExpectedWeight:
    """What one weight must be: exactly one of `record`, `norm`, `values` and `sha256` says it.

    Attributes:
        proof: how equality is called.
        transform: what was done to its origins.
        origins: what it is made of.
        dtype: numpy name of its type.
        shape: sizes of its axes.
        record: read again from the checkpoint.
        norm: computed again from the checkpoint: (the normalization, whether it is the bias).
        values: the values, computed from the checkpoint.
        sha256: of its bytes, for what was in memory only.
    """

    proof: Proof
    transform: str
    origins: str
    dtype: str
    shape: tuple[int, ...]
    record: LazyTensor | None = None
    norm: tuple[BatchNorm, bool] | None = None
    values: np.ndarray[Any, Any] | None = None
    sha256: str | None = None


def of_record(source: SourceWeights, record: LazyTensor, proof: WeightProof) -> ExpectedWeight:
    """A weight that holds a record; of one that is not in files only the sha256 is kept, and the proof says so."""
    dtype, shape = numpy_type(record.dtype).name, tuple(int(size) for size in record.shape)
    if source.in_files(record):
        return ExpectedWeight(proof.proof, proof.transform, proof.origins, dtype, shape, record=record)
    digest = hashlib.sha256()
    for block in source.blocks(record):
        digest.update(block.data)
    return ExpectedWeight(Proof.SOURCE, proof.transform, proof.origins, dtype, shape, sha256=digest.hexdigest())


class Expectations:
    """The expected weights of one captured and finished graph.

    Args:
        source: the weights of its source, as they were before the export.
        history: what the graph's passes did.
    """

    def __init__(self, source: SourceWeights, history: WeightHistory) -> None:
        self.source, self.history = source, history
        self._folded: dict[str, np.ndarray[Any, Any] | None] = {}

    def of_graph(self, model: ir.Model) -> dict[str, ExpectedWeight]:
        """By the name of the initializer; those that nothing explains are left out.

        Args:
            model: the finished graph, while the source is still in memory.
        """
        norms = self._folded_norms(model)
        found: dict[str, ExpectedWeight] = {}
        names: Iterable[str] = (str(name) for graph in model.graphs() for name in graph.initializers)
        for name in names:
            expected = norms.get(name) or self._expected(name)
            if expected is not None:
                found[name] = expected
        return found

    def used(self, names: Iterable[str]) -> set[str]:
        """Parameters and buffers that initializers of these names are made of."""
        found: set[str] = set()
        pending = list(names)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            source = self.history.layouts.get(name, (name, ()))[0]
            if source in self.source.records:
                found.add(source)
            folded = self.history.made.get(source)
            pending += [one for one in folded.inputs if one is not None] if folded is not None else []
            for norm in self.history.norms.values():
                if source in (norm.weight, *norm.folded_biases):
                    pending += norm.names
        return found

    def _expected(self, name: str) -> ExpectedWeight | None:
        source, layouts = self._origin(name)
        record = self.source.records.get(source)
        if record is not None:
            return self._recorded(rearranged(record, layouts), source, layouts)
        if source in self.history.made:
            values = self._fold(source)
            if values is not None:
                for layout in layouts:
                    values = rearranged_array(values, layout)
                inputs = [one for one in self.history.made[source].inputs if one is not None]
                words = ", ".join((self.history.made[source].operator, *(layout.text for layout in layouts)))
                return ExpectedWeight(Proof.COMPUTED, words, " and ".join(inputs), values.dtype.name, values.shape,
                                      values=values)  # fmt: skip
        if source in self.history.constants:
            values = self.history.constants[source]
            return ExpectedWeight(Proof.CONSTANT, "as captured", f"constant {source}", values.dtype.name, values.shape,
                                  values=values)  # fmt: skip
        return None

    def _origin(self, name: str) -> tuple[str, tuple[Layout, ...]]:
        """(name, changes of layout) of the value that a weight is a rearrangement of; for others, itself."""
        source, layouts = self.history.layouts.get(name, (name, ()))
        while source not in self.source.records and source in self.history.made:
            made = self.history.made[source]
            layout = self._layout(made)
            if made.inputs[0] is None or (layout is None and made.operator != "Identity"):
                break
            source, layouts = made.inputs[0], (*((layout,) if layout is not None else ()), *layouts)
        return source, layouts

    def _layout(self, made: FoldedNode) -> Layout | None:
        """What a folded node does, if it only rearranges."""
        if made.domain not in ("", "ai.onnx") or made.outputs != 1:
            return None
        if made.operator == "Transpose":
            order = next((tuple(one.as_ints()) for one in made.attributes if one.name == "perm"), None)
            return None if order is None else Layout("transposed", tuple(int(axis) for axis in order))
        shape = self.history.constants.get(made.inputs[1] or "") if len(made.inputs) > 1 else None
        if made.operator == "Reshape" and shape is not None and shape.size and shape.min() > 0:
            return Layout("reshaped", tuple(int(size) for size in shape))
        return None

    def _recorded(self, record: LazyTensor, name: str, layouts: tuple[Layout, ...]) -> ExpectedWeight:
        from onnxport.weights.lazy import is_computed

        origins, loading = describe_origins(self.source.records[name], name, self.source.reader)
        words = (*loading, *(layout.text for layout in layouts))
        proof = Proof.TRANSFORMED if words else Proof.EXACT
        if is_computed(record):
            proof = Proof.COMPUTED
        return of_record(self.source, record, WeightProof(proof, ", ".join(words) or "as is", origins))

    def _folded_norms(self, model: ir.Model) -> dict[str, ExpectedWeight]:
        """Weights of products that a normalization was folded into."""
        left = {
            str(node.inputs[3].name)
            for node in model.graph
            if node.op_type == "BatchNormalization" and node.inputs[3] is not None
        }
        found: dict[str, ExpectedWeight] = {}
        for norm in self.history.norms.values():
            known = all(name in self.source.records for name in (norm.weight, *norm.names))
            if norm.names[2] in left or not known:
                continue
            for name, is_bias in ((norm.weight, False), *((bias, True) for bias in norm.folded_biases)):
                record = self.source.records[norm.names[1] if is_bias else norm.weight]
                origins = " and ".join((norm.weight, *norm.names))
                shape = tuple(int(size) for size in record.shape)
                expected = ExpectedWeight(Proof.COMPUTED, f"normalization folded into {norm.operator}", origins,
                                          numpy_type(record.dtype).name, shape, norm=(norm, is_bias))  # fmt: skip
                names = (norm.weight, *norm.names, *((norm.bias,) if norm.bias in self.source.records else ()))
                if not all(self.source.in_files(self.source.records[str(one)]) for one in names):
                    values = folded_norm(self.source, norm, is_bias=is_bias)
                    expected = ExpectedWeight(Proof.COMPUTED, expected.transform, origins, values.dtype.name,
                                              values.shape, values=values)  # fmt: skip
                found[name] = expected
        return found

    def _fold(self, name: str) -> np.ndarray[Any, Any] | None:
        """The value of a folded node, computed from the source; None where it depends on something else."""
        if name in self._folded:
            return self._folded[name]
        self._folded[name] = None  # a circle would be no graph
        made = self.history.made.get(name)
        if made is not None:
            inputs = [None if one is None else self._value(one) for one in made.inputs]
            if all(one is None or value is not None for one, value in zip(made.inputs, inputs, strict=True)):
                self._folded[name] = _evaluate(made, inputs)
        return self._folded[name]

    def _value(self, name: str) -> np.ndarray[Any, Any] | None:
        record = self.source.records.get(name)
        if record is not None:
            return self.source.array(record) if record.numel() <= _COMPUTED_UP_TO else None
        if name in self.history.made:
            return self._fold(name)
        return self.history.constants.get(name)


def rearranged(record: LazyTensor, layouts: Iterable[Layout]) -> LazyTensor:
    """A record in another layout."""
    result: Any = record
    for layout in layouts:
        if layout.kind == "transposed":
            result = result.permute(list(layout.numbers))
        elif layout.kind == "reshaped":
            result = result.reshape(list(layout.numbers))
        else:
            result = result.narrow(*layout.numbers)
    return result  # type: ignore[no-any-return]


def rearranged_array(values: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """An array in another layout."""
    if layout.kind == "transposed":
        return values.transpose(layout.numbers)
    if layout.kind == "reshaped":
        return values.reshape(layout.numbers)
    axis, start, length = layout.numbers
    return values.take(range(start, start + length), axis)


def folded_norm(source: SourceWeights, norm: BatchNorm, *, is_bias: bool) -> np.ndarray[Any, Any]:
    """The weight or the bias of a product that a normalization was folded into.

        weight * scale / sqrt(variance + epsilon), (bias - mean) * scale / sqrt(variance + epsilon) + shift

    Args:
        source: the weights.
        norm: the normalization.
        is_bias: which of the two.
    """
    scale, shift, mean, variance = (source.array(source.records[name]) for name in norm.names)
    factor = scale / np.sqrt(variance + norm.epsilon)
    if is_bias:
        bias = source.array(source.records[norm.bias]) if norm.bias in source.records else np.zeros_like(mean)
        found: np.ndarray[Any, Any] = ((bias - mean) * factor + shift).astype(mean.dtype)
        return found
    weight = source.array(source.records[norm.weight])
    along = [-1 if axis == norm.axis else 1 for axis in range(weight.ndim)]
    return (weight * factor.reshape(along)).astype(weight.dtype)


def _evaluate(made: FoldedNode, inputs: list[np.ndarray[Any, Any] | None]) -> np.ndarray[Any, Any] | None:
    """The result of one node, by onnx's reference implementation; None where it has none."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    names = ["" if value is None else f"input_{index}" for index, value in enumerate(inputs)]
    outputs = [f"output_{index}" for index in range(made.outputs)]
    try:
        node = onnx.helper.make_node(made.operator, names, outputs, domain=made.domain)
        for attribute in made.attributes:
            node.attribute.append(ir.to_proto(attribute))
        given = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
        results = ReferenceEvaluator(node).run(None, given)
    except Exception:  # an operator that it lacks: then nothing is said of the weight
        return None
    value = results[made.output]
    return value if isinstance(value, np.ndarray) else None
