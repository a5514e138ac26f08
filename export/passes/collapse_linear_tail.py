"""Collapse convolutions and pixel shuffles up to the image to one convolution and one shuffle."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adadm.export.graph.channels import bias_of, weight_of
from adadm.export.graph.rewriting import (
    NotFoldable,
    dtype_of,
    graph_of,
    input_of,
    is_op,
    label,
    named_node,
    new_initializer,
    produced_by,
    producer_of,
    replace,
    sole_consumer,
)
from adadm.export.passes.folding import FoldingPass

Array = npt.NDArray[np.float64]

_END, _HEIGHT, _WIDTH = np.iinfo(np.int64).max, 2, 3
_INT64 = ir.DataType.INT64
_COLLAPSED = ".collapsed"


class CollapseLinearTail(FoldingPass):
    """Collapses the linear tail of a network, exact at the border and for every size.

    Pattern: `Conv -> DepthToSpace (-> Conv | DepthToSpace)+ -> graph output`; the convolutions are
    square, of stride 1, and keep height and width by zero padding. The first DepthToSpace of the
    graph counts.

    Algebra: away from the border the tail is linear and the same at every low-resolution pixel, so
    it equals one convolution to `3 r r` channels and one DepthToSpace by `r`. Its kernel is found
    from the image backwards: which input weighs how much in each pixel of one `r x r` block,
    through every layer, in float64. Its reach `p` is how far the layers can reach, counted on the
    way, whatever their weights are; no weight lies outside.

    At the border this lacks the zeros that pad the later convolutions. They reach `ring`
    low-resolution pixels inwards. These pixels come from the original tail, run on four strips of
    `ring + p` pixels, and are inserted by Slice and Concat. The slices clip where the strips
    overlap or exceed the image, so that every size from 1x1 up is right: the near strips take
    their full width where possible, the far ones the rest.

    Exact when: always.

    Left alone when: a nonlinear node follows; another node reads an inner value; a convolution
    has strides, dilations, groups, another padding, or weights that are not constant; the tail is
    collapsed already, or costs fewer multiply-adds uncollapsed.
    """

    result: ClassVar[str] = "collapsed"

    def matches(self, node: ir.Node) -> bool:
        shuffles = (other for other in graph_of(node) if _is_shuffle(other))
        return next(shuffles, None) is node

    def fold(self, node: ir.Node) -> None:
        tail = _tail_from(node)
        upscale = _upscale(tail)
        kernel, bias, ring = _collapse(tail, upscale)
        before, after = _multiply_adds(tail), kernel.size
        if after >= before:
            raise NotFoldable(
                f"it takes {before} multiply-adds a pixel, but {after} when collapsed"
            )
        _Rewriter(tail, upscale, kernel, bias, ring).rewrite()


def is_border_strip(node: ir.Node) -> bool:
    """True if a node is part of a strip for the border of a collapsed tail."""
    return f"{_COLLAPSED}." in label(node)


def _is_shuffle(node: ir.Node) -> bool:
    return is_op(node, "DepthToSpace")


def _tail_from(shuffle: ir.Node) -> list[ir.Node]:
    """Layers from the convolution before the first shuffle to the graph output.

    Raises:
        NotFoldable: the layers are not a linear chain.
    """
    first = produced_by(shuffle.inputs[0], "Conv")
    if first is None:
        raise NotFoldable("no convolution stands before it")
    tail = [first]
    while not tail[-1].outputs[0].is_graph_output():
        value = tail[-1].outputs[0]
        if not sole_consumer(value):
            raise NotFoldable(f"several nodes read {value.name}")
        ((reader, _),) = value.uses()
        if not is_op(reader, "Conv", "DepthToSpace"):
            raise NotFoldable(f"{reader.op_type} {label(reader)} follows, which is not linear")
        tail.append(reader)
    if tail[-1].outputs[0].uses():
        raise NotFoldable("a node reads the graph output too")
    if tail[1:] == [shuffle]:
        raise NotFoldable("it is one convolution and one DepthToSpace already")
    for layer in tail:
        if layer.op_type == "Conv":
            _check_convolution(layer)
    return tail


def _check_convolution(node: ir.Node) -> None:
    weight = weight_of(node)
    bias_of(node)
    sides = weight.shape[2:]
    same = [side // 2 for side in sides] * 2
    attributes = node.attributes
    if (
        len(sides) != 2
        or sides[0] != sides[1]
        or sides[0] % 2 == 0
        or attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
        or list(attributes.get_ints("pads", (0,) * 4)) != same
    ):
        raise NotFoldable(f"{label(node)} is not square, or its padding does not keep the size")
    ones = (*attributes.get_ints("strides", ()), *attributes.get_ints("dilations", ()))
    if any(value != 1 for value in ones) or attributes.get_int("group", 1) != 1:
        raise NotFoldable(f"{label(node)} has strides, dilations or groups")


def _block_size(shuffle: ir.Node) -> int:
    return int(shuffle.attributes["blocksize"].as_int())


def _upscale(tail: list[ir.Node]) -> int:
    return int(np.prod([_block_size(layer) for layer in tail if _is_shuffle(layer)]))


def _multiply_adds(tail: list[ir.Node]) -> int:
    """Multiply-adds of the layers for one low-resolution pixel."""
    pixels, total = 1, 0
    for layer in tail:
        if _is_shuffle(layer):
            pixels *= _block_size(layer) ** 2
        else:
            total += pixels * weight_of(layer).size
    return total


def _collapse(tail: list[ir.Node], upscale: int) -> tuple[Array, Array, int]:
    """Compute the tail as one convolution, in the channel order of DepthToSpace's mode CRD.

    Returns:
        Kernel (M, C, 2p + 1, 2p + 1); bias (M,); and the width of the border where it is wrong,
        low-resolution px.
    """
    trailing = len(list(itertools.takewhile(_is_shuffle, reversed(tail))))
    last = len(tail) - trailing - 1
    colours = weight_of(tail[last]).shape[0] // _upscale(tail[last + 1 :]) ** 2
    # Weights from channel, row and column of a layer's input to each pixel of a block (M); the
    # block begins at row and column `origin`.
    outputs = colours * upscale**2
    weights: Array = np.eye(outputs).reshape(outputs, colours, upscale, upscale)
    origin = 0
    bias = np.zeros(outputs)
    for layer in reversed(tail):
        if layer.op_type == "Conv":
            bias += np.einsum("mcyx,c->m", weights, bias_of(layer))
            weights = _through_convolution(weights, weight_of(layer))
            origin += weight_of(layer).shape[2] // 2
        else:
            weights, origin = _through_shuffle(weights, origin, layer)
    rows, columns = weights.shape[2:]
    reach = max(origin, rows - 1 - origin)
    kernel = np.zeros((*weights.shape[:2], 2 * reach + 1, 2 * reach + 1))
    first = reach - origin
    kernel[..., first : first + rows, first : first + columns] = weights
    return kernel, bias, _ring(tail, upscale)


def _through_convolution(weights: Array, kernel: Array) -> Array:
    """Turn weights (M, C', y, x) of a convolution's output into those of its input."""
    rows, columns = weights.shape[2:]
    height, width = kernel.shape[2:]
    shape = (weights.shape[0], kernel.shape[1], rows + height - 1, columns + width - 1)
    result = np.zeros(shape)
    for row, column in itertools.product(range(height), range(width)):
        part = np.tensordot(weights, kernel[..., row, column], axes=(1, 0))  # (M, y, x, C)
        result[..., row : row + rows, column : column + columns] += part.transpose(0, 3, 1, 2)
    return result


def _through_shuffle(weights: Array, origin: int, shuffle: ir.Node) -> tuple[Array, int]:
    """Turn weights of a DepthToSpace's output into those of its input; with the block's origin."""
    block = _block_size(shuffle)
    before = -origin % block
    rows, columns = weights.shape[2:]
    pad = [(before, -(before + size) % block) for size in (rows, columns)]
    weights = np.pad(weights, ((0, 0), (0, 0), *pad))
    outputs, channels, rows, columns = weights.shape
    split = weights.reshape(outputs, channels, rows // block, block, columns // block, block)
    order = (0, 1, 3, 5, 2, 4)  # CRD: (c, dy, dx)
    if shuffle.attributes.get_string("mode", "DCR") == "DCR":
        order = (0, 3, 5, 1, 2, 4)
    shape = (outputs, channels * block**2, rows // block, columns // block)
    return split.transpose(order).reshape(shape), (origin + before) // block


def _ring(tail: list[ir.Node], upscale: int) -> int:
    """Reach of the zeros that pad the later convolutions, low-resolution px."""
    wrong = 0
    for layer in tail[1:]:
        if _is_shuffle(layer):
            wrong *= _block_size(layer)
        else:
            wrong += weight_of(layer).shape[2] // 2
    return -(-wrong // upscale)


@dataclass
class _Rewriter:
    """Replaces the tail by the collapsed tail and the four strips."""

    tail: list[ir.Node]
    upscale: int
    kernel: Array
    bias: Array
    ring: int

    def rewrite(self) -> None:
        first, last = self.tail[0], self.tail[-1]
        features, graph = input_of(first, 0), graph_of(first)
        self.nodes: list[ir.Node] = []
        self.name = f"{label(first)}{_COLLAPSED}"
        self.graph, self.dtype = graph, dtype_of(first.inputs[1])
        interior = self._interior(features)
        if self.ring:
            strip = self.ring + self.kernel.shape[2] // 2
            near, far = self.ring * self.upscale, -self.ring * self.upscale
            first_strip, last_strip = (0, strip), (-strip, _END)
            top = self._strip(features, "top", _HEIGHT, first_strip)
            bottom = self._strip(features, "bottom", _HEIGHT, last_strip)
            left = self._strip(features, "left", _WIDTH, first_strip)
            right = self._strip(features, "right", _WIDTH, last_strip)
            inside = {_HEIGHT: (near, far)}
            top = self._slice(top, "top.ring", {_HEIGHT: (0, near)})
            bottom = self._slice(bottom, "bottom.rest", {_HEIGHT: (near, _END)})
            bottom = self._slice(bottom, "bottom.ring", {_HEIGHT: (far, _END)})
            left = self._slice(left, "left.ring", {**inside, _WIDTH: (0, near)})
            right = self._slice(right, "right.rest", {**inside, _WIDTH: (near, _END)})
            right = self._slice(right, "right.ring", {_WIDTH: (far, _END)})
            middle = self._slice(interior, "interior", {**inside, _WIDTH: (near, far)})
            rows = self._node("Concat", "rows", [left, middle, right], axis=_WIDTH)
            image = self._node("Concat", "image", [top, rows, bottom], axis=_HEIGHT)
        else:
            image = interior
        graph.insert_after(last, self.nodes)
        replace(last.outputs[0], image)
        for layer in reversed(self.tail[:-1]):
            graph.remove(layer, safe=True)

    def _interior(self, features: ir.Value) -> ir.Value:
        reach = self.kernel.shape[2] // 2
        parameters = [
            new_initializer(self.graph, f"{self.name}.{kind}", values, self.dtype)
            for kind, values in (("weight", self.kernel), ("bias", self.bias))
        ]
        form = {"pads": [reach] * 4, "kernel_shape": [2 * reach + 1] * 2}
        convolved = self._node("Conv", "", [features, *parameters], **form)
        shuffle = {"blocksize": self.upscale, "mode": "CRD"}
        return self._node("DepthToSpace", "shuffle", [convolved], **shuffle)

    def _strip(self, features: ir.Value, side: str, axis: int, bounds: tuple[int, int]) -> ir.Value:
        """Append the original tail on a strip of the features."""
        value = self._slice(features, f"{side}.features", {axis: bounds})
        for index, layer in enumerate(self.tail):
            inputs = [value, *layer.inputs[1:]]
            value = self._node(layer.op_type, f"{side}.{index}.{label(layer)}", inputs)
            producer_of(value).attributes.update(layer.attributes)
        return value

    def _slice(self, value: ir.Value, name: str, bounds: dict[int, tuple[int, int]]) -> ir.Value:
        starts, ends = zip(*bounds.values(), strict=True)
        constants = [
            new_initializer(self.graph, f"{self.name}.{name}.{kind}", np.array(values), _INT64)
            for kind, values in (("starts", starts), ("ends", ends), ("axes", tuple(bounds)))
        ]
        return self._node("Slice", name, [value, *constants])

    def _node(
        self, op_type: str, name: str, inputs: list[ir.Value | None], **attributes: Any
    ) -> ir.Value:
        full = f"{self.name}.{name}".rstrip(".")
        node = named_node(op_type, inputs, attributes, name=full, dtype=self.dtype)
        self.nodes.append(node)
        return node.outputs[0]
