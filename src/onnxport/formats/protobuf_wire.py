"""Protocol Buffers' wire format (protobuf.dev/programming-guides/encoding): fields of a message, read and written.

Reading takes no memory for what it skips, and checks every length before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LENGTH_DELIMITED = BYTES
Buffer = bytes | bytearray | memoryview | mmap


class WireField(NamedTuple):
    """One field of a message.

    Attributes:
        number, wire_type: of its key.
        start: where its key begins.
        content: where its content begins; for `BYTES` behind the length.
        end: the first byte behind it.
        value: of a `VARINT`, as an unsigned number below 2**64; else 0.
    """

    number: int
    wire_type: int
    start: int
    content: int
    end: int
    value: int


def read_fields(data: Buffer, position: int, end: int) -> Iterator[WireField]:
    r"""The fields of the message in the bytes from `position` to `end`.

    Raises:
        ValueError: a field is longer than the message, or has an unknown or obsolete wire type.

    Example:
        >>> [field.value for field in read_fields(b"\x08\x96\x01", 0, 3)]
        [150]
    """
    while position < end:
        start = position
        key, position = _read_varint(data, position, end)
        wire_type, value, content = key & 7, 0, position
        if wire_type == VARINT:
            value, position = _read_varint(data, position, end)
        elif wire_type == BYTES:
            length, content = _read_varint(data, position, end)
            position = content + length
        elif wire_type in (FIXED32, FIXED64):
            position += 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}")
        if position > end or not 0 < key >> 3 < 2**29:
            raise ValueError(f"a field at byte {start} does not fit into its message")
        yield WireField(key >> 3, wire_type, start, content, position, value)


def _read_varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift > 63:
            break
    raise ValueError(f"a number that does not end before byte {position}")


def packed_varints(content: bytes) -> list[int]:
    """Varints one after the other, as unsigned numbers of 64 bits; one that is cut off is left out."""
    found, value, shift = [], 0, 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value & 0xFFFFFFFFFFFFFFFF)
            value = shift = 0
    return found


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
