"""Linear tails as ONNX graphs of their own, from PyTorch modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper
from torch import nn

Array = npt.NDArray[Any]


def tail_graph(
    tail: nn.Module, channels: int, dtype: type[np.floating[Any]] = np.float64
) -> ir.Model:
    """Convolutions, pixel shuffles and activations of `tail`, in order, as `features -> sr`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes: list[Any] = []
    initializers: list[Any] = []
    previous = "features"
    layers = [m for m in tail.modules() if not list(m.children())]
    for index, layer in enumerate(layers):
        output = "sr" if index == len(layers) - 1 else f"v{index}"
        name = f"layer{index}"
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            inputs = [previous, f"{name}.weight", f"{name}.bias"]
            for key, tensor in zip(inputs[1:], (layer.weight, layer.bias), strict=True):
                values = tensor.detach().numpy().astype(dtype)
                initializers.append(numpy_helper.from_array(values, key))
            assert not isinstance(layer.padding, str)
            attributes: dict[str, Any] = {
                "pads": [*layer.padding, *layer.padding],
                "strides": list(layer.stride),
                "dilations": list(layer.dilation),
                "group": layer.groups,
            }
            nodes.append(helper.make_node("Conv", inputs, [output], name, **attributes))
        elif isinstance(layer, nn.PixelShuffle):
            block = layer.upscale_factor
            nodes.append(
                helper.make_node(
                    "DepthToSpace", [previous], [output], name, blocksize=block, mode="CRD"
                )
            )
        else:
            nodes.append(helper.make_node(type(layer).__name__, [previous], [output], name))
        previous = output
    graph = helper.make_graph(
        nodes,
        "tail",
        [helper.make_tensor_value_info("features", kind, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info("sr", kind, ["N", None, "rH", "rW"])],
        initializers,
    )
    imports = [helper.make_opsetid("", 19)]
    model: ir.Model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=9))
    return model


def run_tail(model: ir.Model, features: Array) -> Array:
    """A graph of convolutions, shuffles, slices and concatenations in float64, with PyTorch.

    ONNX Runtime has no float64 convolution, and onnx's reference evaluator takes seconds.
    """
    values = {str(model.graph.inputs[0].name): torch.from_numpy(features)}
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        values[name] = torch.from_numpy(value.const_value.numpy().copy())
    for node in model.graph:
        first, *rest = (values[str(value and value.name)] for value in node.inputs)
        if node.op_type == "Conv":
            padding = int(node.attributes["pads"].as_ints()[0])
            output = nn.functional.conv2d(first, rest[0], rest[1], padding=padding)
        elif node.op_type == "DepthToSpace":
            block = int(node.attributes["blocksize"].as_int())
            batch, channels, height, width = first.shape
            if node.attributes["mode"].as_string() == "DCR":
                split = first.reshape(batch, block**2, channels // block**2, height, width)
                first = split.transpose(1, 2).reshape(first.shape)
            output = nn.functional.pixel_shuffle(first, block)
        elif node.op_type == "Slice":
            output = first
            for start, end, axis in zip(*(bound.tolist() for bound in rest), strict=True):
                output = output[(slice(None),) * axis + (slice(start, end),)]
        else:
            assert node.op_type == "Concat"
            output = torch.cat([first, *rest], dim=int(node.attributes["axis"].as_int()))
        values[str(node.outputs[0].name)] = output
    sr: Array = values[str(model.graph.outputs[0].name)].numpy()
    return sr


def random_tail(seed: int, *layers: nn.Module) -> nn.Sequential:
    """The layers with random weights and biases, in float64."""
    torch.manual_seed(seed)
    tail = nn.Sequential(*layers).double()
    for parameter in tail.parameters():
        nn.init.normal_(parameter, std=0.4)
    return tail


def features_of(channels: int, batch: int, height: int, width: int) -> Array:
    """Random features (N, C, H, W) in float64, with a mean: zeros outside the image then show."""
    rng = np.random.default_rng((batch, height, width))
    return rng.normal(1, 1, (batch, channels, height, width))
