from __future__ import annotations

import itertools
import math
from collections import Counter
from unittest.mock import patch

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from _support.double_precision import relative_error
from _support.graphs import graph
from _support.parity import TOLERANCES
from _support.tails import features_of, random_tail, run_tail, tail_graph
from adadm.export.networks.blocks import convolution, linear_tail, upsampling_stages
from adadm.export.passes import collapse_linear_tail, collapse_tail
from adadm.export.passes.collapse_linear_tail import CollapseLinearTail
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

CHANNELS = 12
SINGLE = 2e-6
"""Of the peak: a pixel is the sum of up to 25 C products, in another order."""
SIZES = [*itertools.product(range(1, 9), range(1, 9)), (13, 40), (31, 17), (64, 5), (3, 50)]


def published(upscale: int, network: str) -> nn.Sequential:
    """The tail of EDSR and NLSN, or of RDN."""
    if network == "edsr":
        return random_tail(upscale, linear_tail(upscale, CHANNELS))
    growth = CHANNELS - 2
    stages = upsampling_stages(upscale, CHANNELS, growth)
    return random_tail(upscale, *stages, convolution(growth, 3))


@pytest.mark.parametrize("network", ["edsr", "rdn"])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_every_size_is_exact_to_the_border(upscale: int, network: str) -> None:
    tail = published(upscale, network)
    double, single = (tail_graph(tail, CHANNELS, dtype) for dtype in (np.float64, np.float32))
    for model in (double, single):
        assert collapse_tail(model).result == "collapsed"
    session = OnnxRuntimeSession(ir.to_proto(single).SerializeToString())
    for (height, width), batch in zip(SIZES, itertools.cycle((1, 2, 3))):
        features = features_of(CHANNELS, batch, height, width)
        expected = tail(torch.from_numpy(features)).detach().numpy()
        found = session.run({"features": features.astype(np.float32)})["sr"]
        assert relative_error(found, expected) <= SINGLE, (batch, height, width)
        found = run_tail(double, features)
        assert relative_error(found, expected) <= TOLERANCES["float64"], (batch, height, width)


def test_one_convolution_and_four_strips_of_three_pixels() -> None:
    model = tail_graph(published(4, "edsr"), CHANNELS)
    collapse_tail(model)
    counts = Counter(node.op_type for node in model.graph)
    assert counts == {"Conv": 1 + 4 * 3, "DepthToSpace": 1 + 4 * 2, "Slice": 11, "Concat": 2}
    kernel = model.graph.initializers["layer0.collapsed.weight"].const_value
    assert kernel is not None and kernel.shape == (3 * 16, CHANNELS, 5, 5)
    strip = model.graph.initializers["layer0.collapsed.top.features.ends"].const_value
    assert strip is not None and strip.numpy().tolist() == [3]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not CollapseLinearTail()(model).modified


ZEROS = ("nowhere", "everywhere", "around the centre")


def kill(layer: nn.Conv2d, where: str) -> None:
    """Set weights to 0; the bias stays."""
    kept = layer.weight.detach().clone()
    middle = layer.kernel_size[0] // 2
    if where != "nowhere":
        layer.weight.data.zero_()
    if where == "around the centre":
        layer.weight.data[..., middle, middle] = kept[..., middle, middle]


@given(
    stages=st.lists(
        st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 3]), st.sampled_from(ZEROS)),
        min_size=1,
        max_size=3,
    ),
    last=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from(ZEROS)),
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**16),
    dcr=st.booleans(),
)
@example([(3, 2, "nowhere")], (3, "everywhere"), (1, 5, 5), 0, False)
@example([(3, 2, "everywhere")], (3, "nowhere"), (1, 5, 5), 0, False)
@example([(1, 2, "nowhere")], (3, "around the centre"), (1, 5, 5), 0, False)
def test_random_tails(
    stages: list[tuple[int, int, str]],
    last: tuple[int, str],
    size: tuple[int, int, int],
    seed: int,
    dcr: bool,
) -> None:
    """Any kernels, dead ones too, any shuffles, both orders of the channels, whatever it costs."""
    channels = 2
    layers: list[nn.Module] = []
    for kernel, block, _ in stages:
        layers += [convolution(channels, channels * block**2, kernel), nn.PixelShuffle(block)]
    layers.append(convolution(channels, 3, last[0]))
    tail = random_tail(seed, *layers)
    convolutions = [layer for layer in tail if isinstance(layer, nn.Conv2d)]
    for layer, where in zip(convolutions, (*(s[2] for s in stages), last[1]), strict=True):
        kill(layer, where)
    model = tail_graph(tail, channels)
    if dcr:
        for node in model.graph:
            if node.op_type == "DepthToSpace":
                node.attributes["mode"] = ir.AttrString("mode", "DCR")
    features = features_of(channels, *size)
    expected = run_tail(model, features)
    with patch.object(collapse_linear_tail, "_multiply_adds", lambda _: math.inf):
        assert collapse_tail(model).result == "collapsed"
    assert relative_error(run_tail(model, features), expected) <= TOLERANCES["float64"]


SHUFFLE = nn.PixelShuffle(2)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([convolution(8, 32), SHUFFLE, nn.Sigmoid(), convolution(8, 3)], "Sigmoid layer2 follows"),
        ([convolution(8, 32), SHUFFLE, convolution(8, 3), nn.Tanh()], "Tanh layer3 follows"),
        ([convolution(8, 32), nn.Sigmoid(), SHUFFLE, convolution(8, 3)], "no convolution stands"),
        ([convolution(8, 12), SHUFFLE], "already"),
        ([nn.Sigmoid(), convolution(8, 3)], "no DepthToSpace"),
        ([nn.Conv2d(8, 32, 3), SHUFFLE, convolution(8, 3)], "layer0 is not square, or its padding"),
        (
            [convolution(8, 32), SHUFFLE, nn.Conv2d(8, 3, (3, 5), padding=(1, 2))],
            "layer2 is not square",
        ),
        (
            [convolution(8, 32), SHUFFLE, nn.Conv2d(8, 3, 3, stride=2, padding=1)],
            "layer2 has strides",
        ),
        (
            [convolution(8, 32), SHUFFLE, nn.Conv2d(8, 3, 3, dilation=2, padding=1)],
            "layer2 has strides, dilations",
        ),
        (
            [nn.Conv2d(8, 32, 3, padding=1, groups=2), SHUFFLE, convolution(8, 3)],
            "layer0 has strides, dilations or groups",
        ),
        (
            [convolution(8, 4, 1), SHUFFLE, convolution(1, 3)],
            "takes 140 multiply-adds a pixel, but 864 when collapsed",
        ),
    ],
)
def test_left_alone(layers: list[nn.Module], reason: str) -> None:
    model = tail_graph(random_tail(0, *layers), 8)
    before = ir.to_proto(model).SerializeToString()
    decision = collapse_tail(model)
    assert decision.result is None
    assert reason in decision.reason
    assert ir.to_proto(model).graph.node == onnx.load_from_string(before).graph.node


@pytest.mark.parametrize(
    ("rest", "outputs", "reason"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (s, W3) z = Relu (s)", "y z", "several nodes read s"),
        (
            "w = Neg (W3) y = Conv <pads = [1, 1, 1, 1]> (s, w)",
            *("y", "the weights of y are not constant"),
        ),
    ],
)
def test_left_alone_for_what_lies_around_it(rest: str, outputs: str, reason: str) -> None:
    body = (
        'a = Conv <pads = [1, 1, 1, 1]> (x, WS) s = DepthToSpace <blocksize = 2, mode = "CRD"> (a) '
    )
    assert reason in collapse_tail(graph(body + rest, outputs)).reason


def test_layers_without_names_of_their_own() -> None:
    """ONNX allows equal names of nodes."""
    tail = published(2, "edsr")
    model = tail_graph(tail, CHANNELS)
    for node in model.graph:
        node.name = "ring"
    features = features_of(CHANNELS, 1, 6, 7)
    collapse_tail(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    expected = tail(torch.from_numpy(features)).detach().numpy()
    assert relative_error(run_tail(model, features), expected) <= TOLERANCES["float64"]
