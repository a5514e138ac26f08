"""Read and check an ONNX file without the onnx package.

Messages and field numbers are those of onnx/onnx.proto (https://github.com/onnx/onnx). The format
has no length and no end mark: a file that was cut off between two fields is a valid message of
fewer fields. So the required fields of a model are checked, and the bodies of our operators, which
come last in our files.

Every model passes `checked_onnx` before ONNX Runtime, OpenVINO or TensorRT loads it. What is
refused there has crashed them, made them hang, or let them read foreign memory or files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adadm.runtime.errors import EngineError
from adadm.runtime.files import mistaken, opened
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.models.wire_format import Message

_DEFAULT_DOMAINS = ("", "ai.onnx")
_DOMAIN = "adadm"  # domain of the operators that export writes, each with its body
_COMPILED = "EPContext"  # operator that holds a vendor's engine, or the name of its file
_START_BYTES = 1000
_LARGEST_OPSET = 1000  # ONNX is at 26; OpenVINO loops up to the number in the file

# TensorProto.DataType from 0, by numpy's names where they exist.
_ELEMENT_TYPES = (
    "undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 "
    "uint64 complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz "
    "uint4 int4 float4e2m1"
)
_SUPPORTED = ("float16", "float32", "uint8", "int8", "int32", "int64", "bool")

_TENSOR, _NODE, _FUNCTION = "TensorProto", "NodeProto", "FunctionProto"
_GRAPH, _SPARSE, _ATTRIBUTE = "GraphProto", "SparseTensorProto", "AttributeProto"
_VALUE, _TYPE = "ValueInfoProto", "TypeProto"
_DIMENSION = "TensorShapeProto.Dimension"

# Messages that can hold a tensor or a name: message, field, message in that field.
_INNER = {
    "ModelProto": {7: _GRAPH, 20: "TrainingInfoProto", 25: _FUNCTION},
    "TrainingInfoProto": {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 11: _VALUE, 12: _VALUE, 13: _VALUE, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _VALUE: {2: _TYPE},
    _TYPE: {1: "TypeProto.Tensor"},
    "TypeProto.Tensor": {2: "TensorShapeProto"},
    "TensorShapeProto": {1: _DIMENSION},
}
_TEXTS = {
    "ModelProto": (2, 3, 4, 6),
    _GRAPH: (2, 10),
    _NODE: (1, 2, 3, 4, 6, 7, 8),
    _FUNCTION: (1, 4, 5, 6, 8, 10, 13),
    _ATTRIBUTE: (1, 13, 21),
    _TENSOR: (8, 12),
    _VALUE: (1, 3),
    _DIMENSION: (2, 3),
}
"""Fields that hold text: backends and the onnx package fail on what is not UTF-8."""
_IMPORTING = {"ModelProto": 8, _FUNCTION: 9}
"""Messages that name opsets, and the field."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file and its description.

    Attributes:
        sha256: digest of `content`, in hexadecimal.
        inputs: tensors to feed, without the initializers, which old files list as inputs too.
        opset: opset of the default domain.
        has_functions: True if it has model-local functions.
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
    """Read an ONNX file with its weights inside.

    In a file without functions, metadata cut off at the end goes unnoticed; only the digest
    tells.

    Raises:
        EngineError: there is no such file; it is not a complete ONNX model; a tensor lies in
            another file; an input or output has a type that numpy lacks, or no known rank; or the
            metadata is invalid or contradicts them.
    """
    content = _content(path)
    with _refusing(path, content):
        return _read(Path(path), content)


def checked_onnx(model: str | os.PathLike[str] | bytes, *, needs_bodies: bool = True) -> bytes:
    """Return a serialized model that is safe for a backend to load.

    Args:
        model: path or serialized model, to which further messages may be appended.
        needs_bodies: require the bodies of our operators; False if a custom library runs them.

    Returns:
        The serialized model.

    Raises:
        EngineError: there is no such file; it is not an ONNX model; a tensor lies in another file
            or at an address in memory; it has an engine inside, or an opset that does not exist; or
            its metadata is invalid or contradicts its tensors.
    """
    if isinstance(model, bytes):
        name, content = "the model", model
    else:
        name, content = os.fspath(model), _content(model)
    with _refusing(name, content):
        _check(name, Message(memoryview(content)), needs_bodies=needs_bodies)
    return content


def has_negative_sizes(content: bytes) -> bool:
    """True if a declared shape has one, which is how some exporters write a free size."""
    messages = _walk(Message(memoryview(content)))
    return any(kind == _DIMENSION and message.integer(1) < 0 for kind, message in messages)


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        with opened(path) as file:
            content = file.read()
    except OSError as error:
        raise EngineError(
            f"{path} cannot be read: {error.strerror}; expected an ONNX model, such as from "
            "`adadm export`"
        ) from error
    if (problem := mistaken(content[:_START_BYTES])) is not None:
        raise EngineError(f"{path} {problem}")
    return content


@contextmanager
def _refusing(name: object, content: bytes) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # PyTorch's archive and pickle, and the header of safetensors behind its length
        if content.startswith((b"PK\x03\x04", b"\x80\x02")) or content[8:10] == b'{"':
            raise EngineError(
                f"{name} is a checkpoint, not an ONNX model; export it: adadm export {name}"
            ) from error
        raise EngineError(
            f"{name} is not a complete ONNX model: {error}; copy or export it again"
        ) from error


def _read(path: Path, content: bytes) -> OnnxFile:
    model = Message(memoryview(content))
    metadata = _check(str(path), model, needs_bodies=True)
    graph = model.message(7)
    assert graph is not None  # checked above
    opsets = [version for domain, version in _imports(model, 8) if domain in _DEFAULT_DOMAINS]
    if len(opsets) != 1:
        raise ValueError(f"expected one opset of the default domain, got {opsets}")
    constants = {tensor.text(8) for tensor in graph.messages(5)}
    outputs = [_spec(path, "output", value) for value in graph.messages(12)]
    if not outputs:
        raise ValueError("its graph has no outputs")
    fed = (value for value in graph.messages(11) if value.text(1) not in constants)
    inputs = [_spec(path, "input", value) for value in fed]
    if not inputs:
        raise ValueError("its graph has no inputs")
    return OnnxFile(
        path=path,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=metadata,
        inputs=inputs,
        outputs=outputs,
        opset=opsets[0],
        has_functions=model.has(25),
    )


def _check(name: str, model: Message, *, needs_bodies: bool) -> ModelMetadata:
    """Check as `checked_onnx` does; return the metadata."""
    if model.integer(1) < 1:
        raise ValueError("it has no ir_version")
    if not model.has(7):
        raise ValueError("it has no graph")
    called, defined = set(), set()
    for kind, message in _walk(model):
        for number in _TEXTS.get(kind, ()):
            message.texts(number)  # raises
        if kind in _IMPORTING:
            _check_opsets(_imports(message, _IMPORTING[kind]))
        if kind == _TENSOR:
            entries = dict(_entries(message, 13))
            if entries or message.integer(14):
                raise EngineError(
                    f"{name}: expected all weights inside, got the tensor "
                    f"{message.text(8) or '(unnamed)'} in another file, "
                    f"{entries.get('location', '(not named)')}. "
                    f"Save it in one file: onnx.save(onnx.load({name!r}), {name!r})"
                )
        elif kind == _NODE and message.text(4) == _COMPILED:
            raise EngineError(
                f"{name}: contains another program's engine ({_COMPILED}), and an engine is code; "
                "use the model that it was compiled from"
            )
        elif kind == _NODE and message.text(7) == _DOMAIN:
            called.add(message.text(4))
        elif kind == _FUNCTION and message.text(10) == _DOMAIN:
            defined.add(message.text(1))
    missing = sorted(called - defined)
    if missing and needs_bodies:
        raise ValueError(f"it lacks the body of {_DOMAIN}::{', '.join(missing)}")
    props = _entries(model, 14)
    if len(dict(props)) < len(props):
        raise ValueError("its metadata has a name twice")
    metadata = ModelMetadata.from_props(dict(props), name)
    metadata.check_tensors(_images(model, 11), _images(model, 12), name)
    return metadata


def _images(model: Message, number: int) -> list[TensorSpec]:
    """Inputs or outputs whose type and rank are declared."""
    specs = []
    for value in (value for graph in model.messages(7) for value in graph.messages(number)):
        with suppress(EngineError):
            specs.append(_spec(Path(), "", value))
    return specs


def _imports(message: Message, number: int) -> list[tuple[str, int]]:
    """Domain and version of each OperatorSetIdProto in a field."""
    return [(entry.text(1), entry.integer(2)) for entry in message.messages(number)]


def _check_opsets(imports: list[tuple[str, int]]) -> None:
    for domain, version in imports:
        least = 1 if domain in _DEFAULT_DOMAINS else 0
        if not least <= version <= _LARGEST_OPSET:
            raise ValueError(
                f"expected opset {least} to {_LARGEST_OPSET} of the domain {domain or 'ai.onnx'}, "
                f"got {version}"
            )


def _walk(model: Message) -> Iterator[tuple[str, Message]]:
    """Yield the kind and content of the messages in `_INNER`, without recursion."""
    waiting = [("ModelProto", model)]
    while waiting:
        kind, message = waiting.pop()
        yield kind, message
        for number, inner in _INNER.get(kind, {}).items():
            waiting += [(inner, inside) for inside in message.messages(number)]


def _entries(message: Message, number: int) -> list[tuple[str, str]]:
    """Key and value of each StringStringEntryProto in a field."""
    return [(entry.text(1), entry.text(2)) for entry in message.messages(number)]


def _spec(path: Path, role: str, value: Message) -> TensorSpec:
    """Specification from a ValueInfoProto (TypeProto, TypeProto.Tensor, TensorShapeProto)."""
    name, kind = value.text(1), value.message(2)
    tensor = kind and kind.message(1)
    shape = tensor and tensor.message(2)
    if tensor is None or shape is None:
        problem = "no tensor" if tensor is None else "a tensor without a shape"
        raise EngineError(
            f"{path}: the {role} {name}: expected a tensor of known rank, got {problem}; "
            "declare its type and shape in the model"
        )
    number = tensor.integer(1)
    types = _ELEMENT_TYPES.split()
    element = types[number] if 0 <= number < len(types) else f"the unknown type {number}"
    if element not in _SUPPORTED:
        raise EngineError(
            f"{path}: the {role} {name}: expected one of {', '.join(_SUPPORTED)}, got {element}; "
            "cast it in the model"
        )
    return TensorSpec(name, tuple(map(_dimension, shape.messages(1))), np.dtype(element))


def _dimension(dimension: Message) -> int | str | None:
    """Length of a TensorShapeProto.Dimension; some exporters write -1 for a free one."""
    if name := dimension.text(2):
        return name
    return dimension.integer(1) if dimension.has(1) and dimension.integer(1) >= 0 else None
