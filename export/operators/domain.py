"""The domain `adadm`, and functions that write the bodies of its operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx import parser

from adadm.runtime.errors import ExportError

DOMAIN = "adadm"
DOMAIN_VERSION = 1
OLDEST_OPSET = 17
_OPSET_WITH_AXES_AS_INPUT = 18


def function_from_text(signature: str, body: str, opset: int) -> ir.Function:
    """Make a model-local function of the domain.

    Args:
        signature: `Name <attributes> (inputs) => (outputs)`.
        body: statements in ONNX's textual syntax, for this opset.

    Raises:
        ExportError: the opset is older than 17.
    """
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"the operators of {DOMAIN}: expected opset {OLDEST_OPSET} or later, got {opset}"
        )
    text = f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"> {signature} {{ {body} }}'
    return ir.serde.deserialize_function(parser.parse_function(text))


def reduction(
    kind: str, result: str, value: str, axes: tuple[int, ...], *, opset: int, keepdims: int = 1
) -> str:
    """Statements that reduce axes. Up to opset 17 axes are an attribute, except in ReduceSum."""
    attribute, listed = f"keepdims = {keepdims}", list(axes)
    if opset < _OPSET_WITH_AXES_AS_INPUT and kind != "ReduceSum":
        return f"{result} = {kind} <axes = {listed}, {attribute}> ({value})"
    return f"""
        {result}_axes = Constant <value_ints = {listed}> ()
        {result} = {kind} <{attribute}> ({value}, {result}_axes)"""
