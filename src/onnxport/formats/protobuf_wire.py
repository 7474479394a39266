"""Protocol Buffers' wire format: variable-length integers."""

from __future__ import annotations


def length_prefix(number: int, length: int) -> bytes:
    """Key and length of a length-delimited field."""
    return varint(number << 3 | 2) + varint(length)


def varint(value: int) -> bytes:
    """A number as protobuf writes it: 7 bits a byte, the low ones first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
