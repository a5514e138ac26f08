"""OpenVINO loads the default export, functions and all, and agrees with PyTorch."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from _support.exports import exported, exported_tiles
from _support.networks import random_network
from _support.parity import assert_parity, photograph_like
from _support.slow import slow_unless
from adadm.export import Options
from adadm.export.limits import Limit
from adadm.export.operators import modulator, sparse_attention
from adadm.export.proof.parity import session_with_codes
from adadm.export.proof.pytorch import run_network, run_with_codes, run_with_factors
from adadm.export.tracing import trace
from adadm.runtime.backends import open_session
from adadm.runtime.sessions import openvino_operators
from adadm.runtime.sessions.openvino_session import OpenVINOSession

pytest.importorskip("openvino", reason="openvino is not installed")

LIMIT = 0.6
"""As a multiple of the deviation of training: the images below reach it, or stay below it."""


@pytest.mark.parametrize(("architecture", "limit"), [("edsr", LIMIT), ("rdn", "off")])
def test_default_export(architecture: str, limit: Limit) -> None:
    network, model, _ = exported(architecture, 2, Options(), limit)
    with OpenVINOSession(model.SerializeToString()) as session:
        assert session.metadata.upscale == 2
        for shape in ((2, 19, 14), (1, 1, 1), (3, 2, 40)):
            lr = photograph_like(shape)
            assert_parity(session.run({"lr": lr})["sr"], run_network(network, lr), "float32")


def test_factors() -> None:
    network, model, _ = exported("edsr", 2, Options(factors=True))
    lr = photograph_like((2, 9, 12))
    expected, factors = run_with_factors(network, lr)
    outputs = OpenVINOSession(model.SerializeToString()).run({"lr": lr})
    assert_parity(outputs["sr"], expected, "float32")
    for index, factor in enumerate(factors):
        np.testing.assert_allclose(outputs[f"factor_{index}"], factor, rtol=3e-5)


def test_group_normalization() -> None:
    network = random_network("edsr", 2, blocks=2, features=12, norm_groups=3)
    session = OpenVINOSession(ir.to_proto(trace(network)).SerializeToString())
    lr = photograph_like((2, 15, 12))
    assert_parity(session.run({"lr": lr})["sr"], run_network(network, lr), "float32")


@pytest.mark.parametrize("shape", [(1, 23, 31), (2, 12, 13)])
def test_sparse_attention(shape: tuple[int, int, int]) -> None:
    """With OpenVINO's own hash codes in PyTorch: its roundings may differ."""
    network, model, _ = exported("nlsn", 2, Options())
    _, codes_of = session_with_codes(network, model)
    for name in codes_of.values():
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["N", "pixels"])
        model.graph.output.append(value)
    session = OpenVINOSession(model.SerializeToString())
    lr = photograph_like(shape, network.rgb_range)
    outputs = session.run({"lr": lr})
    codes = {name: outputs[value] for name, value in codes_of.items()}
    expected, _, rounds = run_with_codes(network, lr, codes)
    assert all(result.largest_gap <= 3e-5 for result in rounds), rounds
    assert_parity(outputs["sr"], expected, "float32")


def test_images() -> None:
    _, model, _ = exported("edsr", 2, Options(io="uint8"))
    images = photograph_like((2, 9, 12)).transpose(0, 2, 3, 1).round().astype(np.uint8)
    found, expected = (
        open_session(model.SerializeToString(), backend=backend)
        .run({"lr": images})["sr"]
        .astype(int)
        for backend in ("openvino", "cpu")
    )
    assert found.shape == (2, 18, 24, 3)
    assert np.abs(found - expected).max() <= 1  # either side of a half
    assert (found != expected).mean() < 0.01


@pytest.mark.parametrize(
    ("opset", "fold", "limit"),  # shifted trunks, and plain ones
    slow_unless(
        lambda *form: form in [(19, "exact", LIMIT), (17, "off", "off")],
        itertools.product((17, 19), ("exact", "off"), ("off", LIMIT)),
    ),
)
def test_tiles(opset: int, fold: Literal["exact", "off"], limit: Limit) -> None:
    """Every operator of theirs, against its body in ONNX Runtime."""
    _, _, tiles = exported_tiles("edsr", 2, Options(opset=opset, fold=fold), limit)
    used = {name for model in (tiles.tile, tiles.moments) for name in functions_of(model)}
    shifted = "Shifted" * (fold == "exact")
    assert used == {
        f"AdaDMModulate{shifted}External{'Limited' * (limit != 'off')}",
        f"AdaDMMoments{shifted}",
        "AdaDMStandardDeviation",
    }
    lr = photograph_like((2, 19, 14))
    lr[1] *= np.float32(0.3)
    rows, columns = np.zeros((2, 1, 19, 1), np.float32), np.zeros((2, 1, 1, 14), np.float32)
    rows[0, :, 3:], rows[1, :, :15], columns[..., 2:11] = 1, 1, 1
    known = np.array([[0, 0, 0], [30, -1, 0]], np.float32).reshape(2, 3, 1, 1)
    given = np.array([[20, 0, 50], [3, 90, 7]], np.float32).reshape(2, 3, 1, 1)
    outputs = []
    for backend in ("openvino", "cpu"):
        with open_session(tiles.moments.SerializeToString(), backend=backend) as session:
            feed = {"lr": lr, "std": known, "rows_inside": rows, "columns_inside": columns}
            moments = session.run(feed)["moments"]
            nothing = session.run({**feed, "rows_inside": 0 * rows})["moments"]
        with open_session(tiles.tile.SerializeToString(), backend=backend) as session:
            sr = session.run({"lr": lr, "std": given})["sr"]
        outputs.append((moments, nothing, sr))
    for found, expected in zip(*outputs, strict=True):
        assert found.shape == expected.shape
        assert np.isfinite(found).all()
    found, expected = outputs
    np.testing.assert_array_equal(found[0][..., 0], expected[0][..., 0])
    np.testing.assert_allclose(found[0][..., 2], expected[0][..., 2], rtol=6e-5)
    # Means lie near 0: the tolerance is a share of the std.
    largest = np.sqrt(expected[0][..., 2] / expected[0][..., 0]).max()
    np.testing.assert_allclose(found[0][..., 1], expected[0][..., 1], atol=3e-5 * largest)
    np.testing.assert_array_equal(found[1][..., [0, 2]], np.zeros((2, 3, 2)))
    assert_parity(found[2], expected[2], "float32")


def functions_of(model: onnx.ModelProto) -> set[str]:
    return {function.name for function in model.functions}


def test_the_limits_are_those_of_the_bodies() -> None:
    assert openvino_operators.LARGEST_EXPONENT == modulator.LARGEST_EXPONENT
    assert openvino_operators.LARGEST_BUCKETS == sparse_attention.LARGEST_BUCKETS
    assert openvino_operators.SMALLEST_NORM == sparse_attention.SMALLEST_NORM
