"""The parts of scripts/studies/quantization/study.py, against definitions and by brute force."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from adadm.calibration.passes import QuantizeConvolutions
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from studies.quantization import edges, networks, report
from studies.quantization.quantizers import described
from studies.quantization.ranges import (
    BINS,
    Histogram,
    divergence,
    entropy,
    mean_square,
    percentile,
)
from studies.quantization.reconstruction import (
    Moments,
    least_squares,
    reconstruct,
    round_with_feedback,
    weights,
)

ROOT = Path(__file__).resolve().parents[3]
Values = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def values() -> Values:
    """Most near 0, a few far out, as features are."""
    return np.random.default_rng(0).laplace(0, 1, 19999).astype(np.float32)


@pytest.fixture(scope="module")
def histogram(values: Values) -> Histogram:
    found = Histogram(1.5 * float(np.abs(values).max()))
    for part in np.array_split(values, 3):
        found.add(part)
    return found


def test_a_histogram_counts_every_value(values: Values, histogram: Histogram) -> None:
    assert histogram.counts.sum() == values.size
    assert histogram.largest == pytest.approx(np.abs(values).max(), abs=histogram.top / BINS)
    full = Histogram(1.0)
    full.add(np.array([-2.0, 1.0, 0.0], np.float32))
    assert full.largest == 1 and full.counts[-1] == 2 and full.counts[0] == 1


@pytest.mark.parametrize("percent", [50, 99, 99.9, 99.99, 100])
def test_a_percentile_is_that_of_the_values(
    values: Values, histogram: Histogram, percent: float
) -> None:
    expected = np.percentile(np.abs(values), percent, method="inverted_cdf")
    assert percentile(histogram, percent) == pytest.approx(expected, abs=histogram.top / BINS)


def test_mean_square_is_the_best_of_a_search(values: Values, histogram: Histogram) -> None:
    def error(largest: float) -> float:
        scale = largest / 127
        rounded = np.clip(np.rint(values / scale), -127, 127) * scale
        return float(np.mean((rounded - values) ** 2))

    found = mean_square(histogram)
    searched = np.linspace(0.01, 1, 500) * np.abs(values).max()
    assert error(found) <= 1.005 * min(error(largest) for largest in searched)
    assert found < 0.95 * histogram.largest  # it cuts something off


def test_divergence_is_that_of_the_definition(values: Values) -> None:
    counts = np.histogram(np.abs(values), 2048)[0].astype(float)
    for kept in (128, 131, 700, 2048):
        reference = [*counts[: kept - 1], counts[kept - 1 :].sum()]
        lowered = [0.0] * kept
        for level in range(128):
            bins = [i for i in range(kept) if i * 128 // kept == level and counts[i]]
            for i in bins:
                lowered[i] = counts[bins].sum() / len(bins)
        p, q = np.array(reference) / sum(reference), np.array(lowered) / sum(lowered)
        with np.errstate(divide="ignore"):
            expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a)
        assert divergence(counts, kept) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_entropy_is_the_best_of_a_search(values: Values, histogram: Histogram) -> None:
    counts = np.histogram(np.abs(values), 2048)[0].astype(float)
    counts[0] = counts[1]
    searched = {kept: divergence(counts, kept) for kept in range(128, 2049)}
    found = round(2048 * entropy(histogram) / histogram.largest)
    assert searched[found] <= 1.05 * min(searched.values())
    assert found < 2048  # it cuts something off
    even = Histogram(1.0)
    even.counts[:] = 1
    assert entropy(even) == 1


@pytest.fixture(scope="module")
def patches() -> Values:
    """Inputs (C, H, W) of a convolution: smooth, so that its columns are correlated."""
    noise = np.random.default_rng(1).normal(0, 1, (3, 42, 52))
    windows = np.lib.stride_tricks.sliding_window_view(noise, (3, 3), axis=(1, 2))
    smooth: Array = windows.sum(axis=(3, 4)) + np.array([0, 2, -3])[:, None, None]
    return smooth.astype(np.float32)


@pytest.fixture(scope="module")
def moments(patches: Values) -> Moments:
    found = Moments((3, 3, 3), scale=float(np.abs(patches).max()) / 20)
    for _ in range(4):
        found.add(patches, np.random.default_rng(2))
    return found


def drawn_patches(patches: Values, scale: float) -> tuple[Array, Array]:
    """What `Moments.add` takes, drawn the slow way."""
    chance = np.random.default_rng(2)
    ys, xs = chance.integers(0, 38, 1000), chance.integers(0, 48, 1000)
    whole = np.array(
        [patches[:, y : y + 3, x : x + 3].ravel() for y, x in zip(ys, xs, strict=True)], float
    )
    return whole, np.rint(whole / scale) * scale


def test_moments_are_those_of_the_patches(patches: Values, moments: Moments) -> None:
    whole, rounded = drawn_patches(patches, moments.scale)
    assert moments.count == 4000
    np.testing.assert_allclose(moments.means, (whole.mean(axis=0), rounded.mean(axis=0)))
    both = np.cov(np.hstack([whole, rounded]).T, ddof=0)
    crossed, own = moments.covariances
    np.testing.assert_allclose(crossed, both[:27, 27:], atol=1e-9)
    np.testing.assert_allclose(own, both[27:, 27:], atol=1e-9)


def test_error_feedback_is_better_than_rounding_to_nearest(moments: Moments) -> None:
    covariance = moments.covariances[1]
    for seed in range(5):
        weight = np.random.default_rng(seed).normal(0, 1, (4, 27))
        scale = np.abs(weight).max(axis=1) / 7  # coarse, so that much is to be made up for
        feedback = round_with_feedback(weight, covariance, scale)
        nearest = np.rint(weight / scale[:, None])
        assert np.array_equal(feedback, np.rint(feedback)) and np.abs(feedback).max() <= 127
        errors = []
        for levels in (feedback, nearest):
            lost = weight - levels * scale[:, None]
            errors.append(np.einsum("mi,ij,mj->m", lost, covariance, lost))
        assert errors[0].sum() < 0.8 * errors[1].sum()


def test_error_feedback_rounds_to_nearest_what_is_independent() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (4, 10))
    scale = np.abs(weight).max(axis=1) / 127
    levels = round_with_feedback(weight, np.diag(np.arange(1.0, 11)), scale)
    assert np.array_equal(levels, np.rint(weight / scale[:, None]))


def test_least_squares_is_better_than_the_given_weights(patches: Values, moments: Moments) -> None:
    weight = np.random.default_rng(3).normal(0, 1, (4, 27))
    whole, rounded = drawn_patches(patches, moments.scale)
    errors = [
        np.var(whole @ weight.T - rounded @ tried.T, axis=0).sum()
        for tried in (least_squares(weight, moments), weight)
    ]
    assert errors[0] < 0.95 * errors[1]


def test_reconstruction_corrects_the_mean(patches: Values, moments: Moments) -> None:
    """Of a convolution in a graph, over the patches that it has seen, to nothing."""
    weight = np.random.default_rng(4).normal(0, 1, (2, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["lr", "w"], ["sr"], name="conv")],
        "g",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, ["N", 2, "H", "W"])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 19)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=9))
    unquantized = weights(model, {"conv": 0})
    QuantizeConvolutions({"conv": moments.scale}, {"conv": np.zeros(3)})(model)
    reconstruct(model, unquantized, {"conv": moments}, fit=True)
    whole, _ = drawn_patches(patches, moments.scale)
    lr = whole.reshape(-1, 3, 3, 3).astype(np.float32)
    sr = OnnxRuntimeSession(ir.to_proto(model).SerializeToString()).run({"lr": lr})["sr"]
    expected = whole @ weight.reshape(2, -1).T
    error = sr.reshape(-1, 2) - expected
    assert np.abs(error.mean(axis=0)).max() < 1e-4 < error.std()


def test_a_net_knows_what_its_norms_were() -> None:
    net = networks.load("EDSR 8 x 48, x2")
    assert len(net.lowered) == 17  # all but head and tail
    assert "head.0" not in net.lowered and not any("tail" in name for name in net.lowered)
    affine = net.affine["body.3.conv1"]
    batch_norm = net.checkpoint.network.get_submodule("body.3.norm1")
    gamma, variance = (getattr(batch_norm, n).detach() for n in ("weight", "running_var"))
    np.testing.assert_allclose(affine, abs(gamma / (variance + 1e-5) ** 0.5), rtol=1e-5)
    assert (net.affine["body.3.conv2"] == 1).all()


def test_integer_biases_are_counted() -> None:
    biases = [
        helper.make_node("DequantizeLinear", [f"{kind}.bias", "s"], [kind])
        for kind in ("int32", "int8")
    ]
    initializers = [
        numpy_helper.from_array(np.ones(2, kind), f"{kind}.bias") for kind in ("int32", "int8")
    ]
    scale = numpy_helper.from_array(np.array(1, np.float32), "s")
    graph = helper.make_graph(biases, "g", [], [], [*initializers, scale])
    found = described(helper.make_model(graph))
    assert found["quantized_tensors"] == 0 and found["int32_biases"] == 1


def test_page_and_picture_are_those_of_the_measured_figures(tmp_path: Path) -> None:
    results = json.loads((ROOT / "docs" / "results" / "quantization.json").read_text())
    page = (ROOT / "docs" / "results" / "quantization.md").read_text()
    assert report.page(results, networks.NETWORKS) == page
    edges.draw(results[edges.PICTURED]["edges"], tmp_path / "edges.svg")
    drawn, committed = (
        re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
        for path in (
            tmp_path / "edges.svg",
            ROOT / "docs" / "images" / "quantization_edges.svg",
        )
    )
    assert drawn == committed
    assert "images/quantization_edges.svg" in page
