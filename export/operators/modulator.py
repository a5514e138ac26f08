"""AdaDM's modulator as one ONNX node, with its body in the same file.

The node is `AdaDMModulate` in the domain `adadm`.

    AdaDMModulate(x, r; weight, bias)                        -> y = x + r * factor
    AdaDMModulateShifted(x, r, center, delta; weight, bias)  -> y = x + delta + r * factor

Both exist with the suffix `Limited` and a third attribute, limit. Each of these four exists with
the suffix `WithFactor`, which returns (y, factor).

    std    = sqrt(sum((u - mean(u))^2) / (n - 1)), over the n = C*H*W elements of one image,
             u = x, or x - center when shifted
    factor = exp(min(weight * ln(std) + bias, 80)) where std > 0, else 0; when limited, with
             min(std, limit) instead of std

x, r, y: (N, C, H, W); center, delta: (1, C, 1, 1); factor: (N, 1, 1, 1). The attributes are floats.

Numerics. The body casts to float32 first and casts the factor back last, so the statistics stay in
float32 when a tool converts the rest of the graph to half precision (where a factor above 65504
still overflows in the last cast). The variance takes two passes. The mean takes two steps, plane by
plane, and the sum of squares three, axis by axis: ONNX Runtime's CPU kernels add contiguous values
in one float32 chain, which was off by 5e-4 on 64x270x480 (docs/explanation/numerics.md). Three
guards make the factor finite in float32:

- std = 0: PyTorch gives the factor 0 for weight > 0, NaN or infinity otherwise; here it is 0.
- The square of a deviation below 2**-63 (1e-19) underflows in float32, so std counts as 0 there.
- The exponent is capped at 80, where exp is 5.5e34 and float32 ends at 3.4e38.

The limit. In evaluation mode batch normalization is affine, so r grows with x. If the factor grows
with x too, a block amplifies high contrast more than low contrast: above the contrast of its
training, a network runs away (docs/explanation/contrast.md). A limit prevents that, and images that
stay below it are unchanged bit for bit.

The body uses only what the parsers of TensorRT 8.5 and later read correctly: they ignore Shape's
`start`, and reduce only floats. They lack CastLike, which inlined files do not contain
(`passes.InlineFunctions`).

Source: Liu, Tang, Wu, "AdaDM: Enabling Normalization for Image Super-Resolution", 2021.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeGuard

import onnx_ir as ir

from adadm.export.operators.domain import DOMAIN, function_from_text, reduction

LARGEST_EXPONENT = 80

CONVERSIONS = ("Cast", "CastLike", "DequantizeLinear", "Identity", "QuantizeLinear")
"""Operators that return their input in another type."""


@dataclass(frozen=True)
class Signature:
    """One operator: its name, inputs, outputs and attributes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...] = ("weight", "bias")

    @property
    def shifted(self) -> bool:
        return "center" in self.inputs

    @property
    def limited(self) -> bool:
        return "limit" in self.attributes

    @property
    def as_shifted(self) -> Signature:
        """The same operator for a shifted trunk."""
        return signature(shifted=True, limited=self.limited, factor="factor" in self.outputs)

    @property
    def with_factor(self) -> Signature:
        """The same operator with the factor as an output."""
        return signature(shifted=self.shifted, limited=self.limited, factor=True)


def signature(*, shifted: bool = False, limited: bool = False, factor: bool = False) -> Signature:
    """Signature of the operator with these features."""
    name = "AdaDMModulate" + "Shifted" * shifted + "Limited" * limited + "WithFactor" * factor
    return Signature(
        name,
        ("x", "r", *(("center", "delta") if shifted else ())),
        ("y", *(("factor",) if factor else ())),
        ("weight", "bias", *(("limit",) if limited else ())),
    )


SIGNATURES = {
    operator.name: operator
    for shifted, limited, factor in itertools.product((False, True), repeat=3)
    for operator in (signature(shifted=shifted, limited=limited, factor=factor),)
}


def is_modulator(node: ir.Node | None) -> TypeGuard[ir.Node]:
    """True if a node is one of the operators above."""
    return node is not None and node.domain == DOMAIN and node.op_type in SIGNATURES


def modulators(graph: ir.Graph) -> Iterator[ir.Node]:
    """Modulators of a graph, in order."""
    return (node for node in graph if is_modulator(node))


@dataclass(frozen=True)
class InlinedModulator:
    """A modulator inlined in a graph: `result = trunk + residual * factor`, or shifted.

    Attributes:
        trunk, residual: values before conversions between types.
        factor: factor of the residual.
        result: result, with the name of the modulator's output.
        weight, bias: parameters of the exponent.
        limit: largest std that the factor follows; infinite without a limit.
        std, limited_std: std of the trunk, and what the factor follows.
        inner: nodes that compute the result from trunk and residual.
    """

    trunk: ir.Value
    residual: ir.Value
    factor: ir.Value
    result: ir.Value
    weight: float
    bias: float
    limit: float
    std: ir.Value
    limited_std: ir.Value
    inner: frozenset[ir.Node]


def find_inlined(graph: ir.Graph) -> list[InlinedModulator]:
    """Find the modulators of a graph whose bodies are inlined, in the order of their results.

    Pattern: `trunk (+ delta) + residual * exp(min(weight * ln(...) + bias, 80))` of a std that
    depends only on the trunk, in any types, with any names. Parts that a simplifier removes may be
    missing: a weight of 1, a bias of 0, the cap, the choice for a std of 0. The limit may be
    missing too.
    """
    return [modulator for node in graph if node.op_type == "Add" for modulator in _ended_by(node)]


def _ended_by(add: ir.Node) -> Iterator[InlinedModulator]:
    for moved, modulated in (add.inputs, add.inputs[::-1]):
        product = _behind(modulated, "Mul")
        for residual, factor in (product.inputs, product.inputs[::-1]) if product else ():
            choice = _behind(factor, "Where")
            exponential = _behind(choice.inputs[1] if choice else factor, "Exp")
            if exponential is None or moved is None or residual is None or factor is None:
                continue
            bounded, _ = _split_number(exponential.inputs[0], "Min", LARGEST_EXPONENT)
            scaled, bias = _split_number(bounded, "Add", 0.0)
            unscaled, weight = _split_number(scaled, "Mul", 1.0)
            logarithm = _behind(unscaled, "Log")
            safe = _behind(logarithm.inputs[0], "Where") if logarithm else None
            limited = safe.inputs[1] if safe else logarithm.inputs[0] if logarithm else None
            std, limit = _split_number(limited, "Min", math.inf)
            if std is None or limited is None:
                continue
            shift = _behind(moved, "Add")
            trunks = [unconverted(v) for v in (moved, *(shift.inputs if shift else ())) if v]
            for trunk in trunks:
                ends = trunk, unconverted(residual)
                if inner := _between(ends, add):
                    values = *ends, factor, add.outputs[0]
                    yield InlinedModulator(*values, weight, bias, limit, std, limited, inner)
                    return


def _split_number(
    value: ir.Value | None, op_type: str, neutral: float
) -> tuple[ir.Value | None, float]:
    """Operand and number of a node of this type; the value and `neutral` without such a node."""
    node = _behind(value, op_type)
    for operand, number in (node.inputs, node.inputs[::-1]) if node else ():
        constant = ir.convenience.get_const_tensor(number) if number is not None else None
        if constant is not None and constant.size == 1:
            return operand, float(constant.numpy().item())
    return value, neutral


def _between(ends: Collection[ir.Value], last: ir.Node) -> frozenset[ir.Node]:
    """Nodes that compute a node's result from `ends` and constants; empty if it reads more."""
    inner: set[ir.Node] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        inner.add(node)
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if value is None or value in ends or producer in inner:
                continue
            if producer is not None:
                waiting.append(producer)
            elif not value.is_initializer():
                return frozenset()
    return frozenset(inner)


def _behind(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Node that computes a value before conversions, if it has this type."""
    node = unconverted(value).producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def unconverted(value: ir.Value) -> ir.Value:
    """Value before conversions between types and quantization."""
    while (node := value.producer()) and node.op_type in CONVERSIONS and node.inputs[0]:
        value = node.inputs[0]
    return value


def modulator_function(signature: Signature, opset: int) -> ir.Function:
    """Make the body of an operator for one opset of the default domain.

    Raises:
        ExportError: the opset is older than 17.
    """
    trunk, shift = ("moved", "moved = Add (x, delta)") if signature.shifted else ("x", "")
    factor = "factor" if "factor" in signature.outputs else "typed_factor"
    body = f"""
            shape = Shape (x)
            first = Constant <value_ints = [1]> ()
            last = Constant <value_ints = [4]> ()
            image_shape = Slice (shape, first, last)
            sizes = Cast <to = 1> (image_shape)
            count = ReduceProd <keepdims = 0> (sizes)

            wide_x = Cast <to = 1> (x)
            {mean("mean_of_x" if signature.shifted else "mean", "wide_x", opset)}
            {deviation(opset, shifted=signature.shifted)}
            {sum_of_squares("squares", "deviation", opset)}
            {standard_deviation()}
            {amplification(factor, limited=signature.limited)}
            modulated = Mul (r, {factor})
            {shift}
            y = Add ({trunk}, modulated)"""
    inputs, outputs = ", ".join(signature.inputs), ", ".join(signature.outputs)
    attributes = ", ".join(signature.attributes)
    text = f"{signature.name} <{attributes}> ({inputs}) => ({outputs})"
    return function_from_text(text, body, opset)


def mean(result: str, value: str, opset: int) -> str:
    """Statements for the mean over one image, plane by plane."""
    planes = reduction("ReduceMean", f"{result}_of_planes", value, (2, 3), opset=opset)
    return planes + "\n" + reduction("ReduceMean", result, f"{result}_of_planes", (1,), opset=opset)


def sum_of_squares(result: str, value: str, opset: int) -> str:
    """Statements for the sum of squares over one image, row by row."""
    return f"""
            {reduction("ReduceSumSquare", f"{result}_of_rows", value, (3,), opset=opset)}
            {reduction("ReduceSum", f"{result}_of_planes", f"{result}_of_rows", (2,), opset=opset)}
            {reduction("ReduceSum", result, f"{result}_of_planes", (1,), opset=opset)}"""


def deviation(opset: int, *, shifted: bool) -> str:
    """Statements for the `deviation` of `wide_x` from its `mean`.

    When shifted, the deviation of `wide_x - center` from its own mean; `mean_of_x` is given.
    """
    if not shifted:
        return "deviation = Sub (wide_x, mean)"
    # mean(x - center) = mean(x) - mean(center): the shift needs no extra sweep.
    return f"""
            wide_center = Cast <to = 1> (center)
            {mean("mean_of_center", "wide_center", opset)}
            mean = Sub (mean_of_x, mean_of_center)
            origin = Add (wide_center, mean)
            deviation = Sub (wide_x, origin)"""


def standard_deviation() -> str:
    """Statements for the unbiased `std` from `squares` of the deviations and `count`."""
    return """
            one_element = Constant <value_float = 1.0> ()
            fewer = Sub (count, one_element)
            degrees_of_freedom = Max (fewer, one_element)
            variance = Div (squares, degrees_of_freedom)
            std = Sqrt (variance)"""


def amplification(factor: str, *, limited: bool) -> str:
    """Statements for the factor, in the type of `r`, from `std` and the attributes."""
    limit = """
            limit_value = Constant <value_float: float = @limit> ()
            limited_std = Min (std, limit_value)"""
    return f"""
            weight_value = Constant <value_float: float = @weight> ()
            bias_value = Constant <value_float: float = @bias> ()
            zero = Constant <value_float = 0.0> ()
            one = Constant <value_float = 1.0> ()
            largest_exponent = Constant <value_float = {LARGEST_EXPONENT}.0> ()

            varies = Greater (std, zero){limit if limited else ""}
            safe_std = Where (varies, {"limited_std" if limited else "std"}, one)
            log_std = Log (safe_std)
            scaled = Mul (log_std, weight_value)
            exponent = Add (scaled, bias_value)
            bounded = Min (exponent, largest_exponent)
            amplification = Exp (bounded)
            wide_factor = Where (varies, amplification, zero)
            {factor} = CastLike (wide_factor, r)"""


FUNCTIONS = {
    name: functools.partial(modulator_function, signature) for name, signature in SIGNATURES.items()
}
