"""Lowered models for strongly and weakly typed TensorRT: built, and near float32 on a photograph.

TensorRT for RTX is strongly typed, so what it builds of a weak form is the float32 graph in it.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from _support.exports import exported
from _support.profiles import built
from _support.slow import slow_unless
from adadm.calibration.passes import QuantizeConvolutions
from adadm.calibration.target_forms.target_model import TargetModel, in_target_form
from adadm.export import Options
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.images.arrays import batch_from_image, reduce
from adadm.runtime.images.compare import compare
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.targets import TARGETS

QUANTIZED = ("body.0.conv2", "body.2.conv1")
SHAPES = {
    "float32": ((1, 3, 16, 16), (1, 3, 64, 64), (2, 3, 256, 256)),
    "uint8": ((1, 16, 16, 3), (1, 64, 64, 3), (2, 256, 256, 3)),
}
LEAST_DB = {"fp16": 65, "int8": 50}
"""Of PSNR to float32. A value in float16 has 11 bits, 66 dB of its own; INT8 has 7 and a sign,
42 dB, in the residuals of two of six convolutions."""

Precision = Literal["fp16", "int8"]
STRONG, WEAK = "jetson-orin-jp62", "jetson-orin-jp51"


def photograph() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return batch_from_image(reduce(photographs()["astronaut"][:192, 128:320], 2), 255)


def run(model: onnx.ModelProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return OnnxRuntimeSession(model.SerializeToString()).run({"lr": photograph()})["sr"]


def inputs_of(model: ir.Model) -> dict[str, float]:
    """The largest magnitude that each of the convolutions reads."""
    watched: ir.Model = ir.from_proto(ir.to_proto(model))
    read = {n.name: n.inputs[0] for n in watched.graph if n.name in QUANTIZED}
    watched.graph.outputs.extend(value for value in read.values() if value is not None)
    found = OnnxRuntimeSession(ir.to_proto(watched).SerializeToString()).run({"lr": photograph()})
    return {
        str(k): float(np.abs(found[str(v.name)]).max()) for k, v in read.items() if v is not None
    }


def lowered(
    name: str, precision: Precision, io: Literal["float32", "uint8"]
) -> tuple[onnx.ModelProto, TargetModel]:
    """The float32 model, and the form of a target."""
    _, proto, _ = exported("edsr", 2, Options())
    model: ir.Model = ir.from_proto(proto)
    if precision == "int8":
        scales = {name: largest / 127 for name, largest in inputs_of(model).items()}
        assert scales.keys() == set(QUANTIZED)
        QuantizeConvolutions(scales, dict.fromkeys(QUANTIZED, np.zeros(12)))(model)
    return proto, in_target_form(model, TARGETS[name], half=True, rgb_range=255, io=io)


@pytest.mark.parametrize(
    ("name", "precision", "io"),
    slow_unless(
        lambda *form: form in [(STRONG, "int8", "float32"), (WEAK, "int8", "uint8")],
        itertools.product((STRONG, WEAK), ("fp16", "int8"), ("float32", "uint8")),
    ),
)
def test_builds(name: str, precision: Precision, io: Literal["float32", "uint8"]) -> None:
    _, form = lowered(name, precision, io)
    kinds = [node.op_type for node in form.model.graph.node]
    weak = TARGETS[name].is_weakly_typed
    if precision == "int8":
        stored = [i for i in form.model.graph.initializer if i.data_type == TensorProto.INT8]
        assert sum(len(tensor.dims) == 4 for tensor in stored) == (0 if weak else 2)
        assert kinds.count("QuantizeLinear") == (4 if weak else 2)
        assert kinds.count("DequantizeLinear") == 4
    assert built(form.model, {"lr": Profile(*SHAPES[io])}).plan


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", [STRONG, WEAK])
def test_is_near_float32_on_a_photograph(name: str, precision: Precision) -> None:
    model, form = lowered(name, precision, "uint8")
    expected, found = run(model), run(form.evaluated)
    result = compare("astronaut", found, expected, 8)
    assert LEAST_DB[precision] < result.psnr_db < 90, result
