"""Scales of channels that lowering and folding change on purpose."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from adadm.deployment.certification.layers.compare import compare_layers


def two_convolutions(
    scale: list[float], first: list[float], second: list[float], seed: int = 0
) -> onnx.ModelProto:
    """Convolution, ReLU, convolution; channels of what lies between times `scale`, and errors.

    Channel 2 is dead: nothing makes it but a bias, and nothing reads it.
    """
    rng = np.random.default_rng(seed)
    alive = np.array([1.0, 1, 0, 1])
    between = np.array(scale)
    weights = {
        "one_weight": rng.normal(size=(4, 3, 3, 3))
        * (alive * between * first)[:, None, None, None],
        "one_bias": rng.normal(size=4) * between,
        "other_weight": rng.normal(size=(3, 4, 3, 3))
        * (alive * second / between)[None, :, None, None],
    }
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19], metadata_props: ["adadm.rgb_range": "1"]>
        tested (float[N, 3, H, W] lr) => (float[N, 3, H, W] sr) {
            one = Conv <pads = [1, 1, 1, 1]> (lr, one_weight, one_bias)
            relu = Relu (one)
            other = Conv <pads = [1, 1, 1, 1]> (relu, other_weight)
            sr = Identity (other)
        }"""
    )
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


RIGHT = [1.0, 1, 1, 1]


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        (RIGHT, RIGHT, None),
        ([1, 0.5, 1, 1], RIGHT, "one"),
        # Without constants between there is no third that tells which of the two is right.
        (RIGHT, [1, 1, 1, 0.5], "one"),
    ],
)
def test_scales_of_channels_are_taken_out(
    first: list[float], second: list[float], where: str | None
) -> None:
    feed = np.random.default_rng(1).random((1, 3, 9, 7), np.float32)
    candidate = two_convolutions([0.25, 2, 7, 3], first, second)
    found = compare_layers(two_convolutions(RIGHT, RIGHT, RIGHT), candidate, [feed])
    assert [layer.name for layer in found.layers] == ["one", "other", "sr"]
    place = found.first_divergence
    assert (place.where if place is not None else None) == where
    if where is None:
        assert min(layer.isolated_db for layer in found.layers) > 120


def test_of_other_weights_the_scale_is_not_guessed() -> None:
    feed = np.random.default_rng(1).random((1, 3, 9, 7), np.float32)
    candidate = two_convolutions(RIGHT, RIGHT, RIGHT, seed=1)
    found = compare_layers(two_convolutions(RIGHT, RIGHT, RIGHT), candidate, [feed])
    assert found.left_out == ("one",)
    assert [layer.name for layer in found.layers] == ["other", "sr"]
    assert found.first_divergence is not None
    assert found.first_divergence.where == "other"
