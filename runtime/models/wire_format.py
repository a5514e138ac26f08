"""The wire format of protobuf (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations


class Message:
    """Fields of one message, by number.

    Raises:
        ValueError: the bytes are not a message, or end too early. The methods raise it if a
            singular field occurs twice (protobuf would merge them) or has another type.
    """

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        at = 0
        while at < len(data):
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            # Some parsers cut longer numbers to 32 bits. 3 and 4 are groups, which ONNX lacks.
            if not 0 < number < 1 << 29 or wire not in (0, 1, 2, 5):
                raise ValueError(f"invalid field number {number} or wire type {wire}")
            if wire == 0:
                value, at = _varint(data, at)
                self._fields.setdefault(number, []).append(value)
                continue
            size, at = _varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            if size > len(data) - at:
                raise ValueError(f"field {number}: expected {size} bytes, got {len(data) - at}")
            if wire == 2:  # fixed-size fields are not needed here
                self._fields.setdefault(number, []).append(data[at : at + size])
            at += size

    def has(self, number: int) -> bool:
        """True if the field is present."""
        return number in self._fields

    def messages(self, number: int) -> list[Message]:
        """Messages in a repeated field."""
        return [Message(part) for part in self._parts(number)]

    def message(self, number: int) -> Message | None:
        """Message in a field; None if absent."""
        return next((Message(part) for part in self._part(number)), None)

    def texts(self, number: int) -> list[str]:
        """Texts in a repeated field."""
        return [bytes(part).decode() for part in self._parts(number)]

    def text(self, number: int) -> str:
        """Text in a field; empty if absent."""
        return b"".join(self._part(number)).decode()

    def integer(self, number: int) -> int:
        """Signed 64-bit number in a field; 0 if absent."""
        values = self._fields.get(number, [0])
        if len(values) > 1 or not isinstance(values[0], int):
            raise ValueError(f"field {number}: expected a single number")
        value = values[0] & (1 << 64) - 1
        return value - (1 << 64) if value >> 63 else value

    def _parts(self, number: int) -> list[memoryview]:
        values = self._fields.get(number, [])
        parts = [value for value in values if isinstance(value, memoryview)]
        if len(parts) < len(values):
            raise ValueError(f"field {number}: expected bytes, got a number")
        return parts

    def _part(self, number: int) -> list[memoryview]:
        parts = self._parts(number)
        if len(parts) > 1:
            raise ValueError(f"field {number}: expected once, got {len(parts)} times")
        return parts


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Number of 7 bits a byte, least first; and the position after it."""
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
