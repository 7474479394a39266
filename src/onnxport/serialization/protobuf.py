"""Pieces of a protobuf message around bytes that are streamed, not held in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxport.formats.protobuf_wire import field_bytes, length_prefix

if TYPE_CHECKING:
    import onnx_ir as ir

# Field numbers of onnx.proto.
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9


def tensor_frame(initializer: Any, weight: ir.Value | None) -> tuple[bytes, bytes]:
    """What stands before and after the weight's bytes in the file; all before for a whole tensor.

    Args:
        initializer: the TensorProto, a stub if `weight` is given. It is changed.
    """
    if weight is None:
        content = initializer.SerializeToString()
        return field_bytes(GRAPH_INITIALIZER, content), b""
    assert weight.const_value is not None
    initializer.ClearField("external_data")
    initializer.ClearField("data_location")
    head, tail = cut(initializer, TENSOR_RAW_DATA)
    size = weight.const_value.nbytes
    head += length_prefix(TENSOR_RAW_DATA, size)
    return length_prefix(GRAPH_INITIALIZER, len(head) + size + len(tail)) + head, tail


def cut(message: Any, number: int) -> tuple[bytes, bytes]:
    """Bytes of the fields before and after field `number`, which is dropped. Consumes the message.

    Protobuf writes fields in the order of their numbers, so the two parts are what the whole
    message would have around that field.
    """
    for field in message.DESCRIPTOR.fields:
        if field.number == number:
            message.ClearField(field.name)
    whole = message.SerializeToString()
    for field in message.DESCRIPTOR.fields:
        if field.number < number:
            message.ClearField(field.name)
    tail = message.SerializeToString()
    return whole[: len(whole) - len(tail)], tail
