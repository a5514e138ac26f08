"""What a device needs to know of an ONNX file, read without the onnx package.

A reader of the protobuf wire format (https://protobuf.dev/programming-guides/encoding) for the
messages of onnx/onnx.proto (https://github.com/onnx/onnx), whose field numbers are those below.
The format has no length and no end mark: a file that was cut off between two fields is a message
of fewer fields. So what a model must have is asked for, and so are the bodies of our operators,
which come last in our files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adadm.runtime.errors import EngineError
from adadm.runtime.session import TensorSpec

__all__ = ["OnnxFile", "read_onnx"]

_DEFAULT_DOMAINS = ("", "ai.onnx")
_DOMAIN = "adadm"  # of the operators that export writes, each with its body

# TensorProto.DataType, from 0 on, by numpy's names where there are any.
_ELEMENT_TYPES = (
    "undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 "
    "uint64 complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz "
    "uint4 int4 float4e2m1"
)
_SUPPORTED = ("float16", "float32", "uint8", "int8", "int32", "int64", "bool")

_TENSOR, _NODE, _FUNCTION = "TensorProto", "NodeProto", "FunctionProto"

# What can hold a tensor: message, field, the message in that field.
_INNER = {
    "ModelProto": {7: "GraphProto", 25: _FUNCTION},
    "GraphProto": {1: _NODE, 5: _TENSOR, 15: "SparseTensorProto"},
    _FUNCTION: {7: _NODE, 11: "AttributeProto"},
    _NODE: {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file, and what it says of itself.

    Attributes:
        sha256: of `content`, in hexadecimal.
        inputs: what must be fed; not the initializers, which old files list as inputs too.
        opset: of the default domain.
        has_functions: whether it has model-local functions.
    """

    path: Path
    content: bytes
    sha256: str
    metadata: dict[str, str]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    opset: int
    has_functions: bool


def read_onnx(path: str | os.PathLike[str]) -> OnnxFile:
    """Read an ONNX file that has its weights inside.

    Of a file without functions, metadata that was cut off at the end is not noticed: its digest
    is what tells.

    Raises:
        EngineError: there is no such file; it is no ONNX model, or not the whole of one; a tensor
            is kept in another file, wherever that is; or an input or output has a type that numpy
            lacks or no known rank.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise EngineError(
            f"{file} cannot be read: {error.strerror}; expected an ONNX model, "
            "such as `adadm export` writes"
        ) from error
    try:
        return _read(file, content)
    except ValueError as error:
        raise EngineError(
            f"{file} is no ONNX model, or not the whole of one: {error}; copy or export it again"
        ) from error


def _read(path: Path, content: bytes) -> OnnxFile:
    model = _Message(memoryview(content))
    if model.integer(1) < 1:
        raise ValueError("it has no ir_version")
    graph = model.message(7)
    if graph is None:
        raise ValueError("it has no graph")
    imports = [_Message(data) for data in model.parts(8)]
    opsets = [found.integer(2) for found in imports if found.text(1) in _DEFAULT_DOMAINS]
    if len(opsets) != 1 or opsets[0] < 1:
        raise ValueError(f"it names the opsets {opsets} of the default domain, expected one")
    entries = [_entry(data) for data in model.parts(14)]
    metadata = dict(entries)
    if len(metadata) < len(entries):
        raise ValueError("it has metadata of the same name twice")
    _check_contents(path, model)
    constants = {_Message(data).text(8) for data in graph.parts(5)}
    outputs = [_spec(path, "output", data) for data in graph.parts(12)]
    if not outputs:
        raise ValueError("its graph has no outputs")
    inputs = [
        _spec(path, "input", data) for data in graph.parts(11) if _name(data) not in constants
    ]
    return OnnxFile(
        path=path,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=metadata,
        inputs=inputs,
        outputs=outputs,
        opset=opsets[0],
        has_functions=bool(model.parts(25)),
    )


def _check_contents(path: Path, model: _Message) -> None:
    """Refuse weights in another file, and calls of our operators without their bodies."""
    called, defined = set(), set()
    for kind, message in _walk(model):
        if kind == _TENSOR:
            entries = dict(_entry(data) for data in message.parts(13))
            if entries or message.integer(14):
                raise EngineError(
                    f"{path} keeps the tensor {message.text(8) or '(unnamed)'} in another file, "
                    f"{entries.get('location', '(not named)')}; expected all weights inside. "
                    f"Save it in one file: onnx.save(onnx.load({str(path)!r}), {str(path)!r})"
                )
        elif kind == _NODE and message.text(7) == _DOMAIN:
            called.add(message.text(4))
        elif kind == _FUNCTION and message.text(10) == _DOMAIN:
            defined.add(message.text(1))
    if missing := sorted(called - defined):
        raise ValueError(f"it lacks the body of {_DOMAIN}::{', '.join(missing)}")


def _walk(model: _Message) -> Iterator[tuple[str, _Message]]:
    """Every message that can hold a tensor, by its kind; a list, as graphs may nest deeply."""
    waiting = [("ModelProto", model)]
    while waiting:
        kind, message = waiting.pop()
        yield kind, message
        for number, inner in _INNER[kind].items():
            waiting += [(inner, _Message(data)) for data in message.parts(number)]


def _entry(data: memoryview) -> tuple[str, str]:
    """A StringStringEntryProto."""
    entry = _Message(data)
    return entry.text(1), entry.text(2)


def _name(data: memoryview) -> str:
    return _Message(data).text(1)


def _spec(path: Path, role: str, data: memoryview) -> TensorSpec:
    """A ValueInfoProto, with a TypeProto, with a TypeProto.Tensor, with a TensorShapeProto."""
    name = _name(data)
    kind = _Message(data).message(2)
    tensor = kind and kind.message(1)
    shape = tensor and tensor.message(2)
    if tensor is None or shape is None:
        found = "no tensor" if tensor is None else "a tensor without a shape"
        raise EngineError(
            f"{path}: the {role} {name} is {found}, expected a tensor of known rank; "
            "give it its type and shape in the model"
        )
    number = tensor.integer(1)
    known = _ELEMENT_TYPES.split()
    element = known[number] if 0 <= number < len(known) else f"of the unknown type {number}"
    if element not in _SUPPORTED:
        raise EngineError(
            f"{path}: the {role} {name} is {element}, expected one of {', '.join(_SUPPORTED)}; "
            "cast it in the model"
        )
    return TensorSpec(name, tuple(_dimension(d) for d in shape.parts(1)), np.dtype(element))


def _dimension(data: memoryview) -> int | str | None:
    """A TensorShapeProto.Dimension; some exporters write -1 for one that is free."""
    dimension = _Message(data)
    if name := dimension.text(2):
        return name
    return dimension.integer(1) if dimension.has(1) and dimension.integer(1) >= 0 else None


class _Message:
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
        return number in self._fields

    def parts(self, number: int) -> list[memoryview]:
        """The bytes of each entry of a repeated field."""
        found = self._fields.get(number, [])
        parts = [value for value in found if isinstance(value, memoryview)]
        if len(parts) < len(found):
            raise ValueError(f"field {number} is a number, expected bytes")
        return parts

    def message(self, number: int) -> _Message | None:
        part = self._part(number)
        return None if part is None else _Message(part)

    def text(self, number: int) -> str:
        return bytes(self._part(number) or b"").decode()

    def integer(self, number: int) -> int:
        """A signed number of 64 bits, 0 where there is none."""
        found = self._fields.get(number, [0])
        if len(found) > 1 or not isinstance(found[0], int):
            raise ValueError(f"field {number} is not a single number")
        value = found[0] & (1 << 64) - 1
        return value - (1 << 64) if value >> 63 else value

    def _part(self, number: int) -> memoryview | None:
        parts = self.parts(number)
        if len(parts) > 1:
            raise ValueError(f"field {number} is there {len(parts)} times, expected once")
        return parts[0] if parts else None


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
