"""Protocol Buffers' wire format (protobuf.dev/programming-guides/encoding): writing fields, and finding them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

# Wire types.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LENGTH_DELIMITED = BYTES


@dataclass(frozen=True)
class Field:
    """One field of a message: bytes `start` to `end` of the data; its content begins at `content`."""

    number: int
    wire_type: int
    start: int
    content: int
    end: int


def fields(data: bytes | mmap.mmap, position: int, end: int) -> Iterator[Field]:
    """The fields of the message from `position` to `end`. Contents are skipped, not read.

    Raises:
        ValueError: a field is longer than the message, or has an unknown wire type.
        IndexError: the data ends in a number.
    """
    while position < end:
        start = position
        key, position = read_varint(data, position)
        wire_type = key & 7
        if wire_type == VARINT:
            content = position
            _, position = read_varint(data, position)
        elif wire_type == BYTES:
            length, content = read_varint(data, position)
            position = content + length
        elif wire_type in (FIXED32, FIXED64):
            content = position
            position += 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(wire_type)
        if position > end or key >> 3 == 0:
            raise ValueError(position)
        yield Field(key >> 3, wire_type, start, content, position)


def read_varint(data: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    r"""The whole number at `position`, and the position after it.

    Example:
        >>> read_varint(b"\xac\x02", 0)
        (300, 2)

    Raises:
        ValueError: it has more than 64 bits.
        IndexError: the data ends in it.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(position)


def field_bytes(number: int, content: bytes) -> bytes:
    r"""A length-delimited field: a string, bytes, or a message inside a message.

    Example:
        >>> field_bytes(1, b"ab")
        b'\n\x02ab'
    """
    return length_prefix(number, len(content)) + content


def length_prefix(number: int, length: int) -> bytes:
    """Key and length of a length-delimited field, for content of `length` bytes that follows."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(length)


def varint(value: int) -> bytes:
    r"""A whole number from 0 as protobuf writes it: 7 bits a byte, the low ones first.

    Example:
        >>> varint(300)
        b'\xac\x02'
    """
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
