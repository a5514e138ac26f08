"""Random stacks of normalized blocks as ONNX graphs in float64, made without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from hypothesis import note
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from adadm.export.operators import update_functions

Array = npt.NDArray[np.float64]
GAMMAS = ("positive", "mixed signs", "some zero", "some tiny")
BLOCKS = (
    "adadm",
    "plain",
    "norm feeds concat",
    "norm shared by two convolutions",
    "norm is an output",
    "norm after conv",
    "mean shift after conv",
)


@dataclass
class Stack:
    """A graph in the making."""

    rng: np.random.Generator
    gammas: str
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def constant(self, values: Array) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, np.float64), name))
        return name

    def node(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [name], name=name, domain=domain, **attributes)
        )
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, padding: int) -> str:
        weight = self.rng.normal(0, 0.5, (outputs, inputs, kernel, kernel))
        bias = self.rng.normal(0, 0.5, outputs)
        return self.node(
            "Conv",
            x,
            self.constant(weight),
            self.constant(bias),
            pads=[padding] * 4,
            kernel_shape=[kernel] * 2,
        )

    def norm(self, x: str, channels: int) -> str:
        gamma = self.rng.uniform(0.4, 1.5, channels)
        if self.gammas != "positive":
            gamma *= self.rng.choice([-1, 1], channels)
        if self.gammas == "some zero":
            gamma[self.rng.random(channels) < 0.4] = 0
        if self.gammas == "some tiny":
            gamma[self.rng.random(channels) < 0.4] = 1e-7
        beta, mean = self.rng.normal(0, 0.5, (2, channels))
        variance = self.rng.uniform(0.2, 2, channels)
        parameters = (self.constant(values) for values in (gamma, beta, mean, variance))
        return self.node("BatchNormalization", x, *parameters)

    def modulate(self, x: str, r: str) -> str:
        weight, bias = (float(np.float32(v)) for v in self.rng.uniform((0.7, -0.4), (1.1, 0.4)))
        return self.node("AdaDMModulate", x, r, domain="adadm", weight=weight, bias=bias)

    def block(self, kind: str, x: str, channels: int, kernel: int, padding: int) -> str:
        """Append a block; returns its output, which has as many channels as its input."""
        if kind == "mean shift after conv":
            shifted = self.conv(x, channels, channels, kernel, padding)
            weight = np.diag(self.rng.normal(0, 1, channels))[..., None, None]
            bias = self.rng.normal(0, 0.5, channels)
            return self.node("Conv", shifted, self.constant(weight), self.constant(bias))
        if kind == "norm after conv":
            return self.norm(self.conv(x, channels, channels, kernel, padding), channels)
        normed = self.norm(x, channels)
        hidden = self.node("Relu", self.conv(normed, channels, channels, kernel, padding))
        if kind == "plain":
            second = self.norm(hidden, channels)
            return self.conv(second, channels, channels, 1, 0)
        if kind == "norm is an output":
            self.outputs.append(normed)
            return hidden
        if kind == "norm shared by two convolutions":
            return self.node("Add", hidden, self.conv(normed, channels, channels, kernel, padding))
        same = (kernel - 1) // 2
        if kind == "norm feeds concat":
            hidden = self.node("Relu", self.conv(normed, channels, channels, kernel, same))
            both = self.node("Concat", normed, hidden, axis=1)
            residual = self.conv(both, 2 * channels, channels, 1, 0)
        else:  # the second convolution gives back what the first one takes
            hidden = self.norm(hidden, channels)
            residual = self.conv(hidden, channels, channels, 5, 2 + same - padding)
        return self.modulate(x, residual)


def build(seed: int, channels: int, gammas: str, blocks: list[tuple[str, int, int]]) -> ir.Model:
    """A head convolution, blocks (kind, kernel, padding), a last convolution with a long skip."""
    stack = Stack(np.random.default_rng(seed), gammas)
    head = x = stack.conv("lr", 2, channels, 3, 1)
    same_size = True
    for kind, kernel, padding in blocks:
        x = stack.block(kind, x, channels, kernel, padding)
        keeps = kind in ("adadm", "norm feeds concat") or 2 * padding == kernel - 1
        same_size = same_size and keeps
    x = stack.conv(x, channels, channels, 3, 1)
    if same_size:
        x = stack.node("Add", head, x)
    stack.outputs.insert(0, x)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        stack.nodes,
        "stack",
        [value("lr", TensorProto.DOUBLE, ["N", 2, "H", "W"])],
        [value(n, TensorProto.DOUBLE, ["N", channels, None, None]) for n in stack.outputs],
        stack.initializers,
    )
    model: ir.Model = ir.from_proto(
        helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid("adadm", 1)],
            ir_version=9,
        )
    )
    update_functions(model)
    return model


@st.composite
def stacks(draw: st.DrawFn) -> ir.Model:
    """Random stacks; kernels 1, 3, 5 and paddings 0, 1, 2."""
    blocks = draw(
        st.lists(
            st.tuples(
                st.sampled_from(BLOCKS), st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 2])
            ),
            min_size=1,
            max_size=3,
        )
    )
    channels = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    gammas = draw(st.sampled_from(GAMMAS))
    note(f"build({seed}, {channels}, {gammas!r}, {blocks})")
    return build(seed, channels, gammas, blocks)
