"""Models that return something else than their input enlarged, for ONNX Runtime."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from adadm.export.limits import FACTOR
from adadm.runtime.models.bundled import bundled_path

_STEEPER = 1.0


def save_constant(path: Path, sr: npt.NDArray[np.float32], io: str = "float32") -> Path:
    """Write a model by 2, for one size, that returns `sr` (H, W, 3) whatever it is fed.

    With `io` uint8 it clips and casts the values as exports do.
    """
    height, width = (side // 2 for side in sr.shape[:2])
    is_image = io == "uint8"
    kind = TensorProto.UINT8 if is_image else TensorProto.FLOAT
    low = [1, height, width, 3] if is_image else [1, 3, height, width]
    high = [1, *sr.shape] if is_image else [1, 3, *sr.shape[:2]]
    values = sr[None] if is_image else sr.transpose(2, 0, 1)[None]
    constants = {"values": values, "least": np.float32(0), "most": np.float32(255)}
    nodes = [
        helper.make_node("Clip", ["values", "least", "most"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["sr"], to=kind),
    ]
    graph = helper.make_graph(
        nodes if is_image else [helper.make_node("Identity", ["values"], ["sr"])],
        "constant",
        [helper.make_tensor_value_info("lr", kind, low)],
        [helper.make_tensor_value_info("sr", kind, high)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(
        model, {"adadm.upscale": "2", "adadm.rgb_range": "255", "adadm.io": io, "adadm.fold": "off"}
    )
    onnx.save(model, path)
    return path


def save_runaway(path: Path) -> Path:
    """Write the bundled model x2 with factors that follow contrast more steeply, without limits.

    At the deviation of training they are as they were. The model runs away on drawn pictures, as
    networks that were trained on photographs alone do.
    """
    model = onnx.load(bundled_path("x2"))
    modulators = [
        {attribute.name: attribute for attribute in node.attribute}
        for node in model.graph.node
        if "Modulate" in node.op_type
    ]
    assert modulators
    for attributes in modulators:
        weight, bias, limit = (attributes[name] for name in ("weight", "bias", "limit"))
        bias.f -= _STEEPER * math.log(limit.f / FACTOR)
        weight.f += _STEEPER
        limit.f = 1e30
    onnx.save(model, path)
    return path
