"""The graph of a network without torch.onnx, which takes seconds where this takes milliseconds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.networks.sparse_attention import SparseAttention
from adadm.export.operators import DOMAIN
from adadm.export.operators.modulator import MODULATE

__all__ = ["sketch"]

_FLOAT = ir.DataType.FLOAT
_RGB = 3


def sketch(network: Network) -> ir.Model | None:
    """The graph on which folds of batch normalization decide as they do on the traced one.

    Nodes carry the names of the modules, as `trace` has them. An attention is one node, that no
    runtime knows: the result is to be read, not to be run.

    Returns:
        None for a network that has more than convolutions, batch normalizations, modulators,
        attentions, ReLU, PixelShuffle, sums, constant factors and Concat; `trace` has to do it.
    """
    try:
        return _Sketch(network.root).model
    except Exception:  # noqa: BLE001 (in the user's code, which raises what it likes on proxies)
        return None


class _UnknownError(Exception):
    """Something that is not translated."""


class _Tracer(fx.Tracer):
    """Records the calls of modules that become a node, and of functions."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _kind(m) is not None or super().is_leaf_module(m, module_qualified_name)


class _Sketch:
    """The graph in the making."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.values: dict[fx.Node, ir.Value] = {}
        self.names: set[str] = set()
        lr = ir.Value(name="lr", shape=ir.Shape(["N", _RGB, "H", "W"]), type=ir.TensorType(_FLOAT))
        self.graph = ir.Graph([lr], [], nodes=[], opset_imports={"": 18, DOMAIN: 1}, name="sketch")
        for node in _Tracer().trace(root).nodes:
            if node.op == "placeholder":
                self.values[node] = lr
            elif node.op == "output":
                self.graph.outputs.append(self._given(node)[0][0])
            else:
                self.values[node] = self._translate(node)
        self.model = ir.Model(self.graph, ir_version=9)

    def _translate(self, node: fx.Node) -> ir.Value:
        arguments, keywords = self._given(node)
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            if (kind := _kind(module)) is not None:
                return _MODULES[kind](self, str(node.target), module, *arguments, **keywords)
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            return _FUNCTIONS[node.target](self, node.name, *arguments, **keywords)
        raise _UnknownError

    def _given(self, node: fx.Node) -> Any:
        """What a node is called with, values in the place of other nodes."""
        translated: Callable[[fx.Node], Any] = self.values.__getitem__
        return fx.node.map_arg((node.args, node.kwargs), translated)

    def node(
        self,
        op_type: str,
        name: str,
        inputs: list[ir.Value],
        channels: int,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        free, count = name, 0
        while free in self.names:  # a module that is called again
            count += 1
            free = f"{name}.{op_type.lower()}_{count}"
        self.names.add(free)
        node = ir.node(op_type, inputs, attributes, domain=domain, name=free)
        result = node.outputs[0]
        result.name, result.shape = free, ir.Shape(["N", channels, None, None])
        result.type = ir.TensorType(_FLOAT)
        self.graph.append(node)
        return result

    def constant(self, name: str, values: Any) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.array(values)
        tensor = ir.tensor(array.astype(np.float32), name=name)
        shape = ir.Shape(array.shape)
        value = ir.Value(name=name, const_value=tensor, shape=shape, type=ir.TensorType(_FLOAT))
        self.graph.register_initializer(value)
        return value

    def convolution(self, name: str, module: nn.Conv2d, x: ir.Value) -> ir.Value:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise _UnknownError
        tensors = {"weight": module.weight, "bias": module.bias}
        parameters = [self.constant(f"{name}.{k}", v) for k, v in tensors.items() if v is not None]
        return self.node(
            "Conv",
            name,
            [x, *parameters],
            module.out_channels,
            pads=[*module.padding, *module.padding],
            strides=list(module.stride),
            dilations=list(module.dilation),
            group=module.groups,
        )

    def batch_norm(self, name: str, module: nn.BatchNorm2d, x: ir.Value) -> ir.Value:
        kinds = ("weight", "bias", "running_mean", "running_var")
        tensors = {kind: getattr(module, kind) for kind in kinds}
        if any(tensor is None for tensor in tensors.values()):
            raise _UnknownError
        constants = [self.constant(f"{name}.{kind}", tensor) for kind, tensor in tensors.items()]
        inputs = [x, *constants]
        return self.node("BatchNormalization", name, inputs, _channels(x), epsilon=module.eps)

    def modulator(self, name: str, module: Modulator, x: ir.Value, r: ir.Value) -> ir.Value:
        assert module.bias is not None  # the class makes one
        constants = {"weight": module.weight.item(), "bias": module.bias.item()}
        return self.node(MODULATE.name, name, [x, r], _channels(x), domain=DOMAIN, **constants)

    def attention(self, name: str, module: SparseAttention, x: ir.Value) -> ir.Value:
        return self.node(type(module).__name__, name, [x], _channels(x), domain=DOMAIN)

    def relu(self, name: str, x: ir.Value) -> ir.Value:
        return self.node("Relu", name, [x], _channels(x))

    def pixel_shuffle(self, name: str, module: nn.PixelShuffle, x: ir.Value) -> ir.Value:
        side = module.upscale_factor
        channels = _channels(x) // side**2
        return self.node("DepthToSpace", name, [x], channels, blocksize=side, mode="CRD")

    def add(self, name: str, first: ir.Value, second: ir.Value) -> ir.Value:
        if _channels(first) != _channels(second):
            raise _UnknownError
        return self.node("Add", name, [first, second], _channels(first))

    def mul(self, name: str, x: ir.Value, factor: float) -> ir.Value:
        constant = self.constant(f"{name}.factor", float(factor))
        return self.node("Mul", name, [x, constant], _channels(x))

    def concat(self, name: str, tensors: Sequence[ir.Value], dim: int) -> ir.Value:
        if dim != 1:
            raise _UnknownError
        return self.node("Concat", name, list(tensors), sum(map(_channels, tensors)), axis=1)


_MODULES: dict[type[nn.Module], Callable[..., ir.Value]] = {
    Modulator: _Sketch.modulator,
    SparseAttention: _Sketch.attention,
    nn.BatchNorm2d: _Sketch.batch_norm,
    nn.Conv2d: _Sketch.convolution,
    nn.PixelShuffle: _Sketch.pixel_shuffle,
    nn.ReLU: lambda made, name, _, x: made.relu(name, x),
}

_FUNCTIONS: dict[Any, Callable[..., ir.Value]] = {
    operator.add: _Sketch.add,
    operator.mul: _Sketch.mul,
    torch.cat: _Sketch.concat,
    torch.relu: _Sketch.relu,
}


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The class above whose computation a module has; a subclass may have its own."""
    for kind in _MODULES:
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return kind
    return None


def _channels(value: ir.Value) -> int:
    assert value.shape is not None and isinstance(value.shape[1], int)
    return value.shape[1]
