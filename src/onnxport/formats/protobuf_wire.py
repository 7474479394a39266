"""Protocol Buffers' wire format (protobuf.dev/programming-guides/encoding): what a message is written with."""

from __future__ import annotations

_LENGTH_DELIMITED = 2


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
