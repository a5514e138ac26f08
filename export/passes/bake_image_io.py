"""Move the conversion between images and batches into the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adadm.export.graph.rewriting import dtype_of
from adadm.export.passes.return_moments import MOMENTS_OUTPUT
from adadm.runtime.models.metadata import ModelMetadata

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_WHITE = 255.0


class BakeImageIO(ir.passes.InPlacePass):
    """Makes a network read and return images: uint8 (N, H, W, 3) instead of float32 (N, 3, H, W).

    Pattern: a graph whose first input and first output are float images of the value range
    0..rgb_range. Other outputs are unchanged.

    Algebra: at the input Cast, Transpose, `* rgb_range / 255`; at the output Clip to
    0..rgb_range, `* 255 / rgb_range`, Round (half to even), Transpose, Cast. `runtime.images`
    clips last, which is the same, since the factor is positive. Here Clip comes first, so that no
    optimizer multiplies the factor into the weights of the preceding convolution, and every grey
    level is the same. Cast is the first and the last node, as TensorRT requires for uint8. A graph
    that returns moments instead of an image gets only the input's part. The metadata records it.

    Left alone when: the input is uint8 already.

    Args:
        rgb_range: value of white.
    """

    def __init__(self, rgb_range: float) -> None:
        self.rgb_range = rgb_range

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        lr, sr = graph.inputs[0], graph.outputs[0]
        if lr.dtype == ir.DataType.UINT8:
            return ir.passes.PassResult(model, modified=False)
        image = self._images(graph, lr)
        self._from_image(graph, image, lr)
        if sr.name != MOMENTS_OUTPUT:
            self._to_image(graph, sr)
        model.metadata_props.update(ModelMetadata(io="uint8").to_props())
        return ir.passes.PassResult(model, modified=True)

    def _images(self, graph: ir.Graph, lr: ir.Value) -> ir.Value:
        """Replace the graph input `lr` by an image input of the same name."""
        image = ir.val(lr.name, ir.DataType.UINT8, _nhwc(lr))
        lr.name = f"{lr.name}.float32"
        graph.inputs[0] = image
        return image

    def _from_image(self, graph: ir.Graph, image: ir.Value, lr: ir.Value) -> None:
        dtype = dtype_of(lr)
        nodes = _Chain(image, "from_image")
        nodes.append("Cast", to=int(dtype))
        nodes.append("Transpose", perm=_TO_NCHW)
        if self.rgb_range != _WHITE:
            scale = self.rgb_range / _WHITE
            nodes.append("Mul", self._constant(graph, "image_to_network", scale, dtype))
        lr.replace_all_uses_with(nodes.value)
        graph.insert_before(graph[0], nodes.nodes)

    def _to_image(self, graph: ir.Graph, sr: ir.Value) -> None:
        name, shape, dtype = sr.name, _nhwc(sr), dtype_of(sr)
        sr.name = f"{name}.float32"
        nodes = _Chain(sr, "to_image")
        limits = (("black", 0.0), ("white", self.rgb_range))
        nodes.append("Clip", *(self._constant(graph, *limit, dtype) for limit in limits))
        if self.rgb_range != _WHITE:
            scale = _WHITE / self.rgb_range
            nodes.append("Mul", self._constant(graph, "network_to_image", scale, dtype))
        nodes.append("Round")
        nodes.append("Transpose", perm=_TO_NHWC)
        nodes.append("Cast", to=int(ir.DataType.UINT8))
        image = nodes.value
        image.name, image.shape, image.type = name, shape, ir.TensorType(ir.DataType.UINT8)
        graph.extend(nodes.nodes)
        graph.outputs[0] = image

    def _constant(self, graph: ir.Graph, name: str, number: float, dtype: ir.DataType) -> ir.Value:
        full = f"image.{name}"
        tensor = ir.tensor(np.array(number, dtype.numpy()), name=full)
        value = ir.val(full, const_value=tensor)
        graph.register_initializer(value)
        return value


class _Chain:
    """A chain of nodes, each reading the previous result, named after a step."""

    def __init__(self, value: ir.Value, step: str) -> None:
        self.value = value
        self.step = step
        self.nodes: list[ir.Node] = []

    def append(
        self, op_type: str, *constants: ir.Value, **attributes: int | tuple[int, ...]
    ) -> None:
        name = f"{self.step}.{op_type.lower()}"
        node = ir.node(op_type, [self.value, *constants], attributes, name=name)
        self.nodes.append(node)
        self.value = node.outputs[0]
        self.value.name = name


def _nhwc(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([value.shape[axis] for axis in _TO_NHWC])
