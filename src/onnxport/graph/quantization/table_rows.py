"""Rows of an embedding table that is stored in blocks, in operators that every run time has.

`com.microsoft::GatherBlockQuantized` does the same in one node, but onnxruntime-web's builds have no kernel for it on
WASM, where a graph with it does not load. The numbers are the same, bit by bit: (integer - middle) * scale in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxport.graph.quantization.blocks import BLOCK

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.graph.quantization.block_tensors import BlockWeight


class _Chain:
    """Nodes one after the other, whose names begin with that of the node that they replace."""

    def __init__(self, model: ir.Model, name: str) -> None:
        self.model, self.name = model, name
        self.nodes: list[ir.Node] = []

    def add(self, operator: str, *inputs: ir.Value | np.ndarray, to: int | None = None, **attributes: int) -> ir.Value:
        """The output of a new node; arrays become initializers, and `to` is the type of a Cast."""
        import onnx_ir as ir

        taken = [value if isinstance(value, ir.Value) else self._constant(value) for value in inputs]
        named = attributes if to is None else {**attributes, "to": to}
        own = f"{self.name}.{operator.lower()}_{len(self.nodes)}"
        node = ir.node(operator, taken, named, name=own)
        node.outputs[0].name = own
        first = taken[0].dtype
        node.outputs[0].type = ir.TensorType(ir.DataType(to)) if to is not None else first and ir.TensorType(first)
        self.nodes.append(node)
        return node.outputs[0]

    def _constant(self, array: np.ndarray) -> ir.Value:
        import onnx_ir as ir

        name = f"{self.name}.constant_{'_'.join(str(number) for number in array.reshape(-1).tolist())}_{array.dtype}"
        known = self.model.graph.initializers.get(name)
        if known is not None:
            return known
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self.model.graph.register_initializer(value)
        return value


def read_rows(model: ir.Model, node: ir.Node, weight: BlockWeight, data: ir.Value, scales: ir.Value) -> list[ir.Node]:
    """New nodes that give what a Gather of the float32 table gives; the last one has the rows.

    The integers are split by floats: all of them are exact, and every run time has these operators for floats.

    Args:
        model: where constants go.
        node: the Gather, along the first axis; the rank of its indices is known.
        weight: the table.
        data: its integers, uint8 (rows, blocks, 4 * bits).
        scales: float32 (rows, blocks).
    """
    import onnx_ir as ir

    indices = node.inputs[1]
    assert indices is not None and indices.shape is not None
    kept = [0] * len(indices.shape)  # of a Reshape: as they are
    blocks = -(-weight.inputs // BLOCK)
    chain = _Chain(model, node.name or str(node.outputs[0].name))
    bytes_of = chain.add("Cast", chain.add("Gather", data, indices, axis=0), to=ir.DataType.FLOAT.value)
    if weight.bits == 4:  # the first of two values is in the low half of a byte
        high = chain.add("Floor", chain.add("Mul", bytes_of, _floats(1 / 16)))
        low = chain.add("Sub", bytes_of, chain.add("Mul", high, _floats(16)))
        last = np.array([-1], np.int64)
        pairs = chain.add("Concat", chain.add("Unsqueeze", low, last), chain.add("Unsqueeze", high, last), axis=-1)
        bytes_of = chain.add("Reshape", pairs, np.array([*kept, blocks, BLOCK], np.int64))
    signed = chain.add("Sub", bytes_of, _floats(1 << (weight.bits - 1)))
    factors = chain.add("Unsqueeze", chain.add("Gather", scales, indices, axis=0), np.array([-1], np.int64))
    chain.add("Reshape", chain.add("Mul", signed, factors), np.array([*kept, weight.inputs], np.int64))
    return chain.nodes


def _floats(number: float) -> np.ndarray:
    return np.array(number, np.float32)
