"""Photographs that repeating pixels enlarges exactly, and a fault to plant in a model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from adadm.calibration.quality.photographs import Photograph
from adadm.runtime.images.arrays import ImageArray

UPSCALE = 2


def _photograph(name: str, height: int, width: int) -> Photograph:
    """Levels 40..200, so that planted errors are not clipped."""
    rng = np.random.default_rng(height)
    lr: ImageArray = rng.integers(40, 200, (height, width, 3)).astype(np.uint8)
    return Photograph(name, name, lr.repeat(UPSCALE, axis=0).repeat(UPSCALE, axis=1), lr)


PHOTOGRAPHS = [_photograph("a.png", 17, 23), _photograph("b.png", 31, 19)]


def fold_without_border(model: onnx.ModelProto, names: str) -> None:
    """Fold shifts into the biases of the zero-padded convolutions that read them: wrong at borders.

    Args:
        names: how the names of the nodes end that add the shifts.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    for add in [node for node in nodes if node.op_type == "Add" and node.name.endswith(names)]:
        conv = next(node for node in nodes if add.output[0] in node.input)
        weight, bias = (numpy_helper.to_array(tensors[name]) for name in conv.input[1:])
        shift = numpy_helper.to_array(tensors[add.input[1]]).ravel()
        folded = (bias + np.einsum("oihw,i->o", weight, shift)).astype(np.float32)
        tensors[conv.input[2]].CopyFrom(numpy_helper.from_array(folded, conv.input[2]))
        conv.input[0] = add.input[0]
        model.graph.node.remove(add)
