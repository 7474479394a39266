"""What happened to the weights of a graph between capture and writing: the record that the ledger of weights checks.

It is written from the nodes of the graph and not from the weights, so that it does not repeat a mistake that was made
with a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

# Elements. Constants up to this size are kept; of larger ones a digest.
KEPT_UP_TO = 8192


@dataclass(frozen=True)
class Layout:
    """One change of layout: an operator that was folded into a weight.

    Attributes:
        kind: "transposed" (numbers: order of the axes), "reshaped" (the new shape), or "sliced" (axis, start, length).
        numbers: see above.
    """

    kind: str
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """In words: "transposed 1 0"."""
        return " ".join((self.kind, *map(str, self.numbers)))

    @classmethod
    def from_text(cls, text: str) -> Layout:
        """The inverse of `text`.

        Raises:
            ValueError: it is not of this form.
        """
        kind, *numbers = text.split(" ")
        if kind not in ("transposed", "reshaped", "sliced"):
            raise ValueError(text)
        return cls(kind, tuple(map(int, numbers)))


@dataclass(frozen=True)
class FoldedNode:
    """A node that may have been computed while the graph was simplified.

    Attributes:
        operator, domain: what it computes.
        attributes: of the node; the node itself is not kept, because it would keep weights in memory.
        inputs: names of its inputs; None for an input that is left out.
        output: which of its outputs.
        outputs: number of its outputs.
    """

    operator: str
    domain: str
    attributes: tuple[Any, ...]
    inputs: tuple[str | None, ...]
    output: int
    outputs: int


@dataclass(frozen=True)
class BatchNorm:
    """A BatchNormalization that follows a product with a weight: both may become one product.

    Attributes:
        names: of its scale, bias, mean and variance.
        weight, bias: names of the product's weight and bias; the bias may be None.
        operator: of the product: Conv, ConvTranspose or Gemm.
        epsilon: added to the variance.
        axis: of the weight, along which outputs are counted.
    """

    names: tuple[str, str, str, str]
    weight: str
    bias: str | None
    operator: str
    epsilon: float
    axis: int

    @property
    def folded_biases(self) -> tuple[str, ...]:
        """Names that the bias of the one product may have: a bias of zeros may be removed before both become one."""
        new = f"{self.weight}_bias"
        return (new,) if self.bias is None else (self.bias, new)


@dataclass
class WeightHistory:
    """Where the initializers of a graph come from.

    Attributes:
        captured: names of the initializers that the captured graph had.
        read: names of those that a node reads.
        constants: name -> values of small constants of the captured graph that are no parameters of the model.
        norms: by the name of the product's weight.
        made: name of a value -> the node that would compute it.
        layouts: name of an initializer -> (name of the captured one that it was made from, changes of its layout).
        variables: of TensorFlow, name of a captured initializer -> id of the handle of its variable.
    """

    captured: frozenset[str]
    read: frozenset[str]
    constants: dict[str, np.ndarray[Any, Any]]
    norms: dict[str, BatchNorm] = field(default_factory=dict)
    made: dict[str, FoldedNode] = field(default_factory=dict)
    layouts: dict[str, tuple[str, tuple[Layout, ...]]] = field(default_factory=dict)
    variables: Mapping[str, int] = field(default_factory=dict)

    def consider(self, node: ir.Node) -> None:
        """Note a node that the optimizer may compute; its result is then a weight of the same name."""
        # Of CastLike's second input only the type counts; its result has it.
        own = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        if any(value is not None and value.const_value is None for value in own) or not node.inputs:
            return
        inputs = tuple(None if value is None else str(value.name) for value in own)
        for value in own:
            tensor = value.const_value if value is not None else None
            name = "" if value is None else str(value.name)
            known = name in self.captured or name in self.made or name in self.constants
            if tensor is not None and not known and tensor.size <= KEPT_UP_TO:
                self.constants[name] = tensor.numpy()
        for index, value in enumerate(node.outputs):
            same = node.op_type == "CastLike" and own[0] is not None and own[0].dtype == value.dtype
            self.made[str(value.name)] = FoldedNode(
                "Identity" if same else node.op_type, node.domain, tuple(node.attributes.values()), inputs, index,
                len(node.outputs),
            )  # fmt: skip

    def rearrange(self, new: str, old: str, layout: Layout) -> None:
        """Note that the weight `new` is the weight `old` in another layout."""
        source, before = self.layouts.get(old, (old, ()))
        self.layouts[new] = source, (*before, layout)


def begin_history(model: ir.Model, variables: Mapping[str, int] | None = None) -> WeightHistory:
    """The history of a graph that has just been captured, with its weights attached.

    Args:
        model: the graph.
        variables: see `WeightHistory`.
    """
    captured = frozenset(str(name) for graph in model.graphs() for name in graph.initializers)
    read = frozenset(
        str(name) for graph in model.graphs() for name, value in graph.initializers.items()
        if value.uses() or value.is_graph_output()
    )  # fmt: skip
    history = WeightHistory(captured, read, dict(_constants(model)), variables=variables or {})
    for node in model.graph:
        if node.op_type == "BatchNormalization":
            found = _batch_norm(node)
            if found is not None:
                history.norms[found.weight] = found
    return history


def _constants(model: ir.Model) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    import onnx_ir as ir

    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Constant" and "value" in node.attributes:
                tensor = node.attributes["value"].as_tensor()
                if tensor.size <= KEPT_UP_TO and tensor.dtype != ir.DataType.STRING:
                    yield str(node.outputs[0].name), tensor.numpy()


def _batch_norm(node: ir.Node) -> BatchNorm | None:
    data = node.inputs[0]
    product = data.producer() if data is not None else None
    if product is None or product.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    weight = product.inputs[1]
    given = [value.name for value in node.inputs[1:5] if value is not None and value.name is not None]
    if weight is None or weight.name is None or len(given) != 4:
        return None
    bias = product.inputs[2] if len(product.inputs) > 2 else None
    transposed = product.op_type == "Gemm" and bool(product.attributes.get_int("transB", 0))
    axis = 0 if product.op_type == "Conv" or transposed else 1
    return BatchNorm(
        (given[0], given[1], given[2], given[3]), weight.name, None if bias is None else bias.name, product.op_type,
        node.attributes.get_float("epsilon", 1e-5), axis,
    )  # fmt: skip
