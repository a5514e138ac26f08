"""The wire format of protobuf (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations


class Message:
    """The fields of one message, by their number.

    Raises:
        ValueError: the bytes are no message, or end too early. The methods raise it when a field
            is there twice that may be there once (protobuf merges such), or has another type.
    """

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        at = 0
        while at < len(data):
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            # Some parsers cut longer numbers to 32 bits; 3 and 4 are groups, which ONNX has not.
            if not 0 < number < 1 << 29 or wire not in (0, 1, 2, 5):
                raise ValueError(f"it has a field of number {number} and wire type {wire}")
            if wire == 0:
                value, at = _varint(data, at)
                self._fields.setdefault(number, []).append(value)
                continue
            size, at = _varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            if size > len(data) - at:
                raise ValueError(f"field {number} has {size} bytes, {len(data) - at} are left")
            if wire == 2:  # no field that is read here has a fixed size
                self._fields.setdefault(number, []).append(data[at : at + size])
            at += size

    def has(self, number: int) -> bool:
        """Whether a field is there."""
        return number in self._fields

    def messages(self, number: int) -> list[Message]:
        """The messages in a repeated field."""
        return [Message(part) for part in self._parts(number)]

    def message(self, number: int) -> Message | None:
        """The message in a field; None where there is none."""
        return next((Message(part) for part in self._part(number)), None)

    def text(self, number: int) -> str:
        """The text in a field, empty where there is none."""
        return b"".join(self._part(number)).decode()

    def integer(self, number: int) -> int:
        """A signed number of 64 bits, 0 where there is none."""
        values = self._fields.get(number, [0])
        if len(values) > 1 or not isinstance(values[0], int):
            raise ValueError(f"field {number} is not a single number")
        value = values[0] & (1 << 64) - 1
        return value - (1 << 64) if value >> 63 else value

    def _parts(self, number: int) -> list[memoryview]:
        values = self._fields.get(number, [])
        parts = [value for value in values if isinstance(value, memoryview)]
        if len(parts) < len(values):
            raise ValueError(f"field {number} is a number, expected bytes")
        return parts

    def _part(self, number: int) -> list[memoryview]:
        parts = self._parts(number)
        if len(parts) > 1:
            raise ValueError(f"field {number} is there {len(parts)} times, expected once")
        return parts


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, least first, and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it has a number of more than 10 bytes")
