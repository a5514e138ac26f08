"""The reader of ONNX files without the onnx package, against that package."""

from __future__ import annotations

from pathlib import Path

import onnx

from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.onnx_reader import OnnxFile, read_onnx
from fuzz.models import mutate_case, seed_models
from fuzz.reader import Fault, Files, Reader


def _read(folder: Path, _: Files) -> None:
    for path in sorted(folder.glob("*.onnx")):
        file = read_onnx(path)
        metadata = file.metadata
        if ModelMetadata.from_props(metadata.to_props()) != metadata:
            raise Fault(f"{metadata} is not what it is written as")
        repr((metadata.reach, metadata.precision, metadata.target, metadata.factor_scales))
        try:
            expected = onnx.load_from_string(file.content)
        except Exception:  # noqa: BLE001 - of protobuf; the reader passes over what it ignores
            continue
        _compare(file, expected)


def _compare(file: OnnxFile, expected: onnx.ModelProto) -> None:
    props = {entry.key: entry.value for entry in expected.metadata_props}
    if file.metadata.to_props().keys() != props.keys():
        raise Fault(f"expected metadata {props}, got {file.metadata}")
    constants = {tensor.name for tensor in expected.graph.initializer}
    fed = [value for value in expected.graph.input if value.name not in constants]
    for ours, theirs in ((file.inputs, fed), (file.outputs, expected.graph.output)):
        shapes = [(value.name, len(value.type.tensor_type.shape.dim)) for value in theirs]
        if [(spec.name, len(spec.shape)) for spec in ours] != shapes:
            raise Fault(f"expected {shapes}, got {ours}")


READER = Reader(seed_models, mutate_case, _read)
