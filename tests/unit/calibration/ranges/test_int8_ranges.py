from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from _support.exports import exported
from _support.graphs import from_text
from _support.parity import photograph_like
from adadm.calibration.ranges.int8_ranges import (
    choose_ranges,
    multiply_adds,
    quantize_convolutions,
    slow_channels,
    slow_channels_note,
)
from adadm.calibration.ranges.tensor_statistics import TensorStatistics
from adadm.export import Options
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[np.float64]


def model(architecture: str = "edsr") -> ir.Model:
    _, proto, _ = exported(architecture, 2, Options())
    graph: ir.Model = ir.from_proto(proto)
    return graph


def one_convolution(weight: Array, group: int = 1, pads: int = 1) -> ir.Model:
    """`x` (1, C, H, W) through one convolution named `conv`, without a bias."""
    m, c, *_ = weight.shape
    conv = f"conv = Conv <group = {group}, pads = [{pads}, {pads}, {pads}, {pads}]> (x, w)"
    constants = {"w": weight.astype(np.float32)}
    return from_text(conv, f"float[1,{c * group},H,W] x", f"float[1,{m},P,Q] conv", constants)


def statistics(largest: Array, mean: Array | None = None) -> TensorStatistics:
    mean = np.zeros_like(largest) if mean is None else mean
    return TensorStatistics(largest, mean, largest**2 / 4)


def of(graph: ir.Model, seed: int = 0) -> dict[str, TensorStatistics]:
    """Of all values (N, C, H, W), at random, channels uneven."""
    rng = np.random.default_rng(seed)
    values = [*graph.graph.inputs, *(v for node in graph.graph for v in node.outputs)]
    return {
        str(value.name): statistics(np.exp(rng.normal(0, 2, value.shape[1])))
        for value in values
        if value.shape is not None and len(value.shape) == 4 and isinstance(value.shape[1], int)
    }


def run(graph: ir.Model, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    (found,) = (
        OnnxRuntimeSession(ir.to_proto(graph).SerializeToString()).run({name: values}).values()
    )
    return found.astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), st.floats(0.1, 4.0))
def test_every_channel_nearly_fills_the_scale_and_none_is_cut(
    seed: int, group: int, unevenness: float
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(8, 8 // group, 3, 3)) * np.exp(rng.normal(size=(8, 1, 1, 1)))
    largest = np.exp(rng.normal(0, unevenness, 8))
    mean = rng.normal(size=8)
    graph = one_convolution(weight, group)
    found = choose_ranges(graph.graph, {"x": statistics(largest, mean)})["conv"]
    assert (found.equalizer > 0).all() and np.isfinite(found.equalizer).all()
    products = largest * found.equalizer
    assert products.max() <= 127 * found.scale * (1 + 1e-12)
    assert products.max() > 127 * found.scale * (1 - 2**-9)  # the least scale of a float16
    assert found.scale == np.float16(found.scale)
    np.testing.assert_allclose(found.mean, mean * found.equalizer)

    # The specification by channel: what is left of the unevenness is a tenth power.
    by_channel = [
        max(np.abs(weight[m, c % (8 // group)]).max() for m in range(8) if m // (8 // group) == g)
        for c in range(8)
        for g in [c // (8 // group)]
    ]
    wanted = np.array(by_channel) ** 0.05 / largest**0.95
    np.testing.assert_allclose(found.equalizer / wanted, found.equalizer[0] / wanted[0], rtol=1e-6)


def test_weights_are_far_from_where_float16_ends() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 8, 3, 3))
    for size in (1e-6, 1.0, 1e6):
        graph = one_convolution(weight * 1e-3)
        largest = np.full(8, size)
        found = choose_ranges(graph.graph, {"x": statistics(largest)})["conv"]
        rows = np.abs(weight * 1e-3 / found.equalizer[:, None, None]).max(axis=(1, 2, 3))
        assert np.median(rows) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("dead", ["silent", "unread", "all silent", "all unread"])
def test_channels_without_anything(dead: str) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 6, 3, 3))
    largest = np.linspace(1, 6, 6)
    if dead in ("silent", "all silent"):
        largest[2 if dead == "silent" else slice(None)] = 0
    else:
        weight[:, 2 if dead == "unread" else slice(None)] = 0
    graph = one_convolution(weight)
    found = choose_ranges(graph.graph, {"x": statistics(largest)})["conv"]
    assert (found.equalizer > 0).all() and np.isfinite(found.equalizer).all()
    assert np.isfinite(found.scale) and found.scale >= 2.0**-14
    x = (photograph_like((1, 9, 10), 1)[:, [0, 1, 2, 0, 1, 2]] * largest[:, None, None]).astype(
        np.float32
    )
    expected = run(graph, "x", x)
    quantize_convolutions(graph, {"conv": found}, ["conv"])
    error = np.abs(run(graph, "x", x) - expected).max()
    assert error <= 0.03 * max(float(np.abs(expected).max()), 1e-9)


def test_what_can_be_int8() -> None:
    """Convolutions of the network; no strip of a collapsed tail, though each is a convolution."""
    graph = model()
    found = choose_ranges(graph.graph, of(graph))
    assert list(found) == [
        "head.0",
        *(f"body.{block}.conv{index}" for block in range(3) for index in (1, 2)),
        "body.3",
        "tail.0.0.collapsed",
    ]
    assert sum(node.op_type == "Conv" for node in graph.graph) > len(found)


@pytest.mark.parametrize("value", ["body.1.conv1", "body.1.relu", "body.0.phi"])
def test_what_reads_or_returns_a_wide_value_is_left_out(value: str) -> None:
    graph = model()
    everything = choose_ranges(graph.graph, of(graph))
    found = choose_ranges(graph.graph, of(graph), wide=[value])
    touching = {
        str(node.name)
        for node in graph.graph
        if node.op_type == "Conv"
        and value in {v.name for v in (node.inputs[0], node.outputs[0]) if v is not None}
    }
    assert everything.keys() - found.keys() == touching & everything.keys()
    assert (value == "body.1.relu") or touching


def test_what_was_not_observed_is_left_out() -> None:
    graph = model()
    known = of(graph)
    del known["lr"]
    assert "head.0" not in choose_ranges(graph.graph, known)
    known["lr"] = statistics(np.ones(7))
    assert "head.0" not in choose_ranges(graph.graph, known)


def test_weights_that_are_computed_are_left_out() -> None:
    inputs = "float[1,2,H,W] x, float[2,2,1,1] w"
    graph = from_text("y = Conv (x, w)", inputs, "float[1,2,P,Q] y")
    assert choose_ranges(graph.graph, {"x": statistics(np.ones(2))}) == {}


def test_only_the_chosen_are_quantized() -> None:
    graph = model()
    ranges = choose_ranges(graph.graph, of(graph))
    chosen = ("body.0.conv2", "body.2.conv1")
    quantize_convolutions(graph, ranges, chosen)
    producers = {str(n.name): n.inputs[1].producer() for n in graph.graph if n.op_type == "Conv"}  # type: ignore[union-attr]
    assert {name for name, producer in producers.items() if producer is not None} == set(chosen)
    plain = model()
    quantize_convolutions(plain, ranges, ())
    assert ir.to_proto(plain) == ir.to_proto(model())


@pytest.mark.parametrize("architecture", ["edsr", "rdn"])
def test_multiply_adds_are_those_of_pytorch(architecture: str) -> None:
    """Counted in the network as it runs; its tail, which is collapsed, aside."""
    network, _, _ = exported(architecture, 2, Options())
    counted: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
            counted[name] = module.weight.numel() * output.shape[2] * output.shape[3]

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if type(module) is nn.Conv2d
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, 27, 48))
    for hook in hooks:
        hook.remove()
    found = multiply_adds(model(architecture))
    common = {name for name in found if not name.startswith(("tail", "UPNet"))}
    assert len(common) >= 8 and common <= counted.keys()
    assert {name: found[name] for name in common} == {name: 100 * counted[name] for name in common}


def test_multiply_adds_of_groups_and_strips() -> None:
    graph = one_convolution(np.ones((3, 1, 3, 3)), group=3)
    assert multiply_adds(graph) == {"conv": 270 * 480 * 3 * 9}
    found = multiply_adds(model())
    assert found["tail.0.0.collapsed"] == 270 * 480 * 12 * 12 * 25
    assert [n for n in found if n.startswith("tail")] == ["tail.0.0.collapsed"]


def test_a_graph_of_a_fixed_size_is_counted_at_the_same() -> None:
    _, proto, _ = exported("edsr", 2, Options(static=(1, 24, 30)))
    fixed: ir.Model = ir.from_proto(proto)
    assert multiply_adds(fixed) == multiply_adds(model())
    assert fixed.graph.inputs[0].shape == ir.Shape([1, 3, 24, 30])


def test_a_convolution_of_one_dimension_is_left_alone() -> None:
    constants = {"w": np.ones((1, 1, 3), np.float32)}
    graph = from_text("y = Conv (x, w)", "float[1,1,L] x", "float[1,1,M] y", constants)
    assert choose_ranges(graph.graph, {"x": statistics(np.ones(1))}) == {}


@pytest.mark.parametrize(
    ("channels", "group", "named"),
    [
        *((count, 1, (count,)) for count in (16, 17, 30, 33, 48, 100)),
        *((count, 1, ()) for count in (3, 32, 64, 256)),
        (48, 48, (48,)),
        (64, 4, ()),
    ],
)
def test_channels_that_int8_fills_up(channels: int, group: int, named: tuple[int, ...]) -> None:
    weight = np.ones((channels, channels // group, 3, 3))
    graph = one_convolution(weight, group).graph
    assert slow_channels(graph) == named


def test_channels_of_a_lowered_network_are_those_of_its_weights() -> None:
    lowered = model()
    ranges = choose_ranges(lowered.graph, of(lowered))
    expected = slow_channels(lowered.graph)
    quantize_convolutions(lowered, ranges, list(ranges))
    assert slow_channels(lowered.graph) == expected == (12,)
    assert "convolutions read 12 channels, which is not a multiple of 32" in slow_channels_note(
        (12,)
    )
