"""Group normalization as one ONNX node, with its statistics in float32.

    GroupNorm(x, scale, bias; num_groups, epsilon) -> y

    y = (x - mean) / sqrt(variance + epsilon) * scale + bias

x, y: (N, C, H, W); scale, bias: (C,). Mean and (biased) variance are over the channels of one group
and over H and W; one group is layer normalization of the whole image. It cannot be folded, because
the statistics depend on the input.

ONNX's own GroupNormalization defines the type of its statistics only from opset 21 on;
InstanceNormalization, by which exporters replace it, never does. Here the body casts to float32
first and back last, so the statistics stay in float32 in a half-precision graph too. Each mean
takes two steps, for the reason given for the modulator.

Source: Wu, He, "Group Normalization", 2018.
"""

from __future__ import annotations

import onnx_ir as ir

from adadm.export.operators.domain import function_from_text, reduction

GROUP_NORM = "GroupNorm"


def _group_norm(opset: int) -> ir.Function:
    def mean(result: str, value: str) -> str:
        rows = reduction("ReduceMean", f"{result}_of_rows", value, (3,), opset=opset)
        return rows + "\n" + reduction("ReduceMean", result, f"{result}_of_rows", (2,), opset=opset)

    body = f"""
        groups_number = Constant <value_int: int = @num_groups> ()
        epsilon_value = Constant <value_float: float = @epsilon> ()
        one = Constant <value_ints = [1]> ()
        three = Constant <value_ints = [3]> ()
        four = Constant <value_ints = [4]> ()
        same = Constant <value_ints = [0]> ()
        any = Constant <value_ints = [-1]> ()
        groups = Reshape (groups_number, one)
        shape = Shape (x)
        width = Slice (shape, three, four)
        grouped_shape = Concat <axis = 0> (same, groups, any, width)
        wide_x = Cast <to = 1> (x)
        grouped = Reshape (wide_x, grouped_shape)
        {mean("mean", "grouped")}
        deviation = Sub (grouped, mean)
        square = Mul (deviation, deviation)
        {mean("variance", "square")}
        positive = Add (variance, epsilon_value)
        std = Sqrt (positive)
        normal_groups = Div (deviation, std)
        normal = Reshape (normal_groups, shape)
        channel_shape = Concat <axis = 0> (one, any, one, one)
        wide_scale = Cast <to = 1> (scale)
        wide_bias = Cast <to = 1> (bias)
        channel_scale = Reshape (wide_scale, channel_shape)
        channel_bias = Reshape (wide_bias, channel_shape)
        scaled = Mul (normal, channel_scale)
        wide_y = Add (scaled, channel_bias)
        y = CastLike (wide_y, x)"""
    signature = f"{GROUP_NORM} <num_groups, epsilon> (x, scale, bias) => (y)"
    return function_from_text(signature, body, opset)


FUNCTIONS = {GROUP_NORM: _group_norm}
