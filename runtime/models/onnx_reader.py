"""What a device needs to know of an ONNX file, read without the onnx package.

The messages are those of onnx/onnx.proto (https://github.com/onnx/onnx), whose field numbers are
those below. Their format has no length and no end mark: a file that was cut off between two fields
is a message of fewer fields. So what a model must have is asked for, and so are the bodies of our
operators, which come last in our files.

Nothing reaches ONNX Runtime, OpenVINO or TensorRT but through `checked_onnx`: what is refused there
has crashed them, made them hang, or let them read what is not the model's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.models.wire_format import Message

_DEFAULT_DOMAINS = ("", "ai.onnx")
_DOMAIN = "adadm"  # of the operators that export writes, each with its body
_COMPILED = "EPContext"  # an engine of some vendor inside a model, or the name of its file
_LARGEST_OPSET = 1000  # ONNX has come to 26; OpenVINO counts up to what a file says

# TensorProto.DataType, from 0 on, by numpy's names where there are any.
_ELEMENT_TYPES = (
    "undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 "
    "uint64 complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz "
    "uint4 int4 float4e2m1"
)
_SUPPORTED = ("float16", "float32", "uint8", "int8", "int32", "int64", "bool")

_TENSOR, _NODE, _FUNCTION = "TensorProto", "NodeProto", "FunctionProto"
_GRAPH, _SPARSE, _ATTRIBUTE = "GraphProto", "SparseTensorProto", "AttributeProto"

# What can hold a tensor: message, field, the message in that field.
_INNER = {
    "ModelProto": {7: _GRAPH, 20: "TrainingInfoProto", 25: _FUNCTION},
    "TrainingInfoProto": {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_IMPORTING = {"ModelProto": 8, _FUNCTION: 9}
"""What names opsets, and the field of them."""


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
    metadata: ModelMetadata
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
    content = _content(path)
    with _refusing(path):
        return _read(Path(path), content)


def checked_onnx(model: str | os.PathLike[str] | bytes, *, needs_bodies: bool = True) -> bytes:
    """A model as a backend may see it: in one piece, and with nothing in it that hurts the process.

    Args:
        model: a path, or a serialized model, also one that others are appended to.
        needs_bodies: of our operators; without, something else runs them.

    Returns:
        The serialized model.

    Raises:
        EngineError: there is no such file; it is no ONNX model; a tensor is kept in another file,
            or at an address in memory; it has an engine inside; or an opset that there is not.
    """
    if isinstance(model, bytes):
        name, content = "the model", model
    else:
        name, content = os.fspath(model), _content(model)
    with _refusing(name):
        _check(name, Message(memoryview(content)), needs_bodies=needs_bodies)
    return content


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise EngineError(
            f"{path} cannot be read: {error.strerror}; expected an ONNX model, "
            "such as `adadm export` writes"
        ) from error


@contextmanager
def _refusing(name: object) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise EngineError(
            f"{name} is no ONNX model, or not the whole of one: {error}; copy or export it again"
        ) from error


def _read(path: Path, content: bytes) -> OnnxFile:
    model = Message(memoryview(content))
    _check(str(path), model, needs_bodies=True)
    graph = model.message(7)
    if graph is None:
        raise ValueError("it has no graph")
    opsets = [version for domain, version in _imports(model, 8) if domain in _DEFAULT_DOMAINS]
    if len(opsets) != 1:
        raise ValueError(f"it names the opsets {opsets} of the default domain, expected one")
    entries = _entries(model, 14)
    metadata = dict(entries)
    if len(metadata) < len(entries):
        raise ValueError("it has metadata of the same name twice")
    constants = {tensor.text(8) for tensor in graph.messages(5)}
    outputs = [_spec(path, "output", value) for value in graph.messages(12)]
    if not outputs:
        raise ValueError("its graph has no outputs")
    fed = (value for value in graph.messages(11) if value.text(1) not in constants)
    return OnnxFile(
        path=path,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=ModelMetadata.from_props(metadata, path),
        inputs=[_spec(path, "input", value) for value in fed],
        outputs=outputs,
        opset=opsets[0],
        has_functions=model.has(25),
    )


def _check(name: str, model: Message, *, needs_bodies: bool) -> None:
    """Refuse what `checked_onnx` refuses, and calls of our operators without their bodies."""
    if model.integer(1) < 1:
        raise ValueError("it has no ir_version")
    called, defined = set(), set()
    for kind, message in _walk(model):
        if kind in _IMPORTING:
            _check_opsets(_imports(message, _IMPORTING[kind]))
        if kind == _TENSOR:
            entries = dict(_entries(message, 13))
            if entries or message.integer(14):
                raise EngineError(
                    f"{name} keeps the tensor {message.text(8) or '(unnamed)'} in another file, "
                    f"{entries.get('location', '(not named)')}; expected all weights inside. "
                    f"Save it in one file: onnx.save(onnx.load({name!r}), {name!r})"
                )
        elif kind == _NODE and message.text(4) == _COMPILED:
            raise EngineError(
                f"{name} has the engine of another program inside ({_COMPILED}), and an engine is "
                "code; expected the model that it was compiled from"
            )
        elif kind == _NODE and message.text(7) == _DOMAIN:
            called.add(message.text(4))
        elif kind == _FUNCTION and message.text(10) == _DOMAIN:
            defined.add(message.text(1))
    missing = sorted(called - defined)
    if missing and needs_bodies:
        raise ValueError(f"it lacks the body of {_DOMAIN}::{', '.join(missing)}")


def _imports(message: Message, number: int) -> list[tuple[str, int]]:
    """Domain and version of each OperatorSetIdProto in a field."""
    return [(entry.text(1), entry.integer(2)) for entry in message.messages(number)]


def _check_opsets(imports: list[tuple[str, int]]) -> None:
    for domain, version in imports:
        least = 1 if domain in _DEFAULT_DOMAINS else 0
        if not least <= version <= _LARGEST_OPSET:
            raise ValueError(
                f"it names opset {version} of the domain {domain or 'ai.onnx'}, expected {least} "
                f"to {_LARGEST_OPSET}"
            )


def _walk(model: Message) -> Iterator[tuple[str, Message]]:
    """Every message that can hold a tensor, by its kind; a list, as graphs may nest deeply."""
    waiting = [("ModelProto", model)]
    while waiting:
        kind, message = waiting.pop()
        yield kind, message
        for number, inner in _INNER[kind].items():
            waiting += [(inner, inside) for inside in message.messages(number)]


def _entries(message: Message, number: int) -> list[tuple[str, str]]:
    """Key and value of each StringStringEntryProto in a field."""
    return [(entry.text(1), entry.text(2)) for entry in message.messages(number)]


def _spec(path: Path, role: str, value: Message) -> TensorSpec:
    """A ValueInfoProto, with a TypeProto, with a TypeProto.Tensor, with a TensorShapeProto."""
    name, kind = value.text(1), value.message(2)
    tensor = kind and kind.message(1)
    shape = tensor and tensor.message(2)
    if tensor is None or shape is None:
        problem = "no tensor" if tensor is None else "a tensor without a shape"
        raise EngineError(
            f"{path}: the {role} {name} is {problem}, expected a tensor of known rank; "
            "give it its type and shape in the model"
        )
    number = tensor.integer(1)
    types = _ELEMENT_TYPES.split()
    element = types[number] if 0 <= number < len(types) else f"of the unknown type {number}"
    if element not in _SUPPORTED:
        raise EngineError(
            f"{path}: the {role} {name} is {element}, expected one of {', '.join(_SUPPORTED)}; "
            "cast it in the model"
        )
    return TensorSpec(name, tuple(map(_dimension, shape.messages(1))), np.dtype(element))


def _dimension(dimension: Message) -> int | str | None:
    """A TensorShapeProto.Dimension; some exporters write -1 for one that is free."""
    if name := dimension.text(2):
        return name
    return dimension.integer(1) if dimension.has(1) and dimension.integer(1) >= 0 else None
