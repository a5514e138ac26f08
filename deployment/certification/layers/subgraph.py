"""The sub-graph of one layer, to run it alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from adadm.deployment.certification.layers.graph import LayerGraph
from adadm.export.graph.rewriting import constant_of

Array = npt.NDArray[Any]


class LayerSubgraph:
    """Sub-graph that computes a layer from the layers before it; a context manager to run it.

    Args:
        value: result of the layer.
        known: results of the layers before it, and their names.

    Attributes:
        sources: names of its inputs.
        precision: its lowest precision: int8, fp16 or float32.
        scale: scale of the INT8 input of a convolution; None without.

    Raises:
        CalibrationError: it depends on an input that is not an image.
    """

    def __init__(self, graph: LayerGraph, value: ir.Value, known: Mapping[ir.Value, str]) -> None:
        self._graph, self._value = graph, value
        self._read, nodes = graph.between(value, known)
        self.sources = tuple(self._read.values())
        half = any(v.dtype == ir.DataType.FLOAT16 for node in nodes for v in node.outputs)
        is_int8 = any(graph.quantizes(node) for node in nodes)
        self.precision = "int8" if is_int8 else "fp16" if half else "float32"
        self.scale: float | None = None
        self._quantizer = graph.quantizer(value)
        if self._quantizer is not None:
            scale = constant_of(self._quantizer.inputs[1])
            assert scale is not None  # LayerGraph made initializers of all constants
            self.scale = float(scale.item())

    def __enter__(self) -> LayerSubgraph:
        with ExitStack() as opened:
            open_ = self._graph.opened
            arriving = self._quantizer.inputs[:1] if self._quantizer is not None else ()
            self._session = opened.enter_context(open_([*self._read], [self._value, *arriving]))
            convolution = self._value.producer()
            if self._quantizer is not None and convolution is not None:
                self._behind = opened.enter_context(open_(convolution.inputs[:1], [self._value]))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run(self, values: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Run the layer; also return its convolution's input before the rounding to INT8.

        Args:
            values: arrays by the names of the sources.
        """
        feed = {str(value.name): values[name] for value, name in self._read.items()}
        result, *arriving = self._session.run(feed).values()
        return result, arriving[0] if arriving else None

    def run_unrounded(self, arriving: Array) -> Array:
        """Run the convolution on an input that is not rounded to INT8."""
        (read,) = self._behind.inputs
        (result,) = self._behind.run({read.name: arriving}).values()
        return result
