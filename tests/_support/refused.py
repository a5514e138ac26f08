"""A model that is valid ONNX and that TensorRT refuses."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def int32_bias() -> onnx.ModelProto:
    """A convolution whose bias comes from an INT32 DequantizeLinear, as quantizers write it.

    The parser of TensorRT for RTX refuses it.
    """
    initializers = {
        "w": np.zeros((4, 3, 3, 3), np.float32),
        "b": np.zeros(4, np.int32),
        "scale": np.float32(0.1),
        "zero": np.int32(0),
    }
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["b", "scale", "zero"], ["bias"], name="dequant"),
            helper.make_node("Conv", ["lr", "w", "bias"], ["sr"], name="conv"),
        ],
        "int32_bias",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
