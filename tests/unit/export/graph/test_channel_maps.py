"""What the metadata say of a value's channels is what the value holds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from _support.double_precision import relative_error, run_double
from _support.graphs import CHANNELS, graph
from adadm.calibration.passes import EqualizeChannels, ScaleTrunk
from adadm.export.graph.channel_maps import note_channel_maps, read_channel_maps
from adadm.export.graph.channels import Affine, map_channels
from adadm.export.passes import fold_batch_norm
from adadm.runtime.models.metadata import ModelMetadata

NORM = "BatchNormalization"
NETWORK = f"""
    h = Conv <pads = [1, 1, 1, 1]> (x, W3, B)
    n = {NORM} (h, G, T, M, S)
    c = Conv <pads = [1, 1, 1, 1]> (n, V3, B)
    z = Relu (c)
    b = {NORM} (z, G, T, M, S)
    o = Conv <pads = [1, 1, 1, 1]> (b, W3, B)
    q = {NORM} (o, G, T, M, S)
    s = Mul (q, scalar)
    u = adadm.AdaDMModulate <weight = 1.0, bias = 0.1> (h, s)
    m = {NORM} (u, P, T, M, S)
    f = Conv <pads = [1, 1, 1, 1]> (m, V3, B)
    g = Mul (f, scalar)
    v = adadm.AdaDMModulate <weight = 1.0, bias = 0.1> (u, g)
    y = Conv <pads = [1, 1, 1, 1]> (v, W3, B)"""


def computed(model: ir.Model, names: list[str]) -> dict[str, np.ndarray]:
    copy = ir.from_proto(ir.to_proto(model))
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [values[name] for name in names]
    feed = {name: np.random.default_rng(1).normal(1, 3, (2, CHANNELS, 7, 6)) for name in ("x", "r")}
    return dict(zip(names, run_double(copy, feed), strict=True))


def maps_of(model: ir.Model) -> dict[str, Affine]:
    maps = read_channel_maps(ModelMetadata.from_props(model.metadata_props))
    assert maps is not None
    return maps


def folded(exponent: int) -> ir.Model:
    model = graph(NETWORK)
    if exponent:
        assert ScaleTrunk(exponent)(model).modified
    assert all(decision.result for decision in fold_batch_norm(model))
    note_channel_maps(model)
    return model


@pytest.mark.parametrize("exponent", [0, -3])
def test_values_hold_what_the_maps_say_of_them(exponent: int) -> None:
    model = folded(exponent)
    EqualizeChannels({"o": np.array([0.3, 2.0, 7.1])})(model)
    note_channel_maps(model)  # after what stands there
    maps = maps_of(model)
    assert maps.keys() == {"h", "c", "b", "o", "u", *(["v"] if exponent else [])}
    expected = computed(graph(NETWORK), ["h", "c", "b", "o", "u", "g", "v", "y"])
    expected["f"] = expected.pop("g")  # a factor right after a convolution counts as its own
    for name, found in computed(model, list(expected)).items():
        one = maps.get(name, Affine(np.ones(1), np.zeros(1)))
        scale, shift = (part.reshape(1, -1, 1, 1) for part in (one.scale, one.shift))
        assert relative_error(found, scale * expected[name] + shift) < 1e-6, name


def test_numbers_are_those_of_float32_and_few() -> None:
    model = folded(0)
    before = dict(model.metadata_props)
    note_channel_maps(model)
    assert model.metadata_props == before
    rng = np.random.default_rng(0)
    affine = Affine(np.full(3, 0.25), rng.normal(size=3).astype(np.float32).astype(np.float64))
    (first, *_, last) = (node.outputs[0] for node in model.graph)
    model.metadata_props.clear()
    map_channels(first, affine)
    map_channels(last, Affine(np.ones(3), np.zeros(3)))
    note_channel_maps(model)
    ((name, found),) = maps_of(model).items()
    assert name == first.name
    np.testing.assert_array_equal(found.scale, [0.25])
    np.testing.assert_array_equal(found.shift, affine.shift)
    assert read_channel_maps(ModelMetadata()) is None
