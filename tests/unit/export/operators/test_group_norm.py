"""The operator's body against PyTorch's group normalization."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from _support.graphs import operator
from adadm.export.operators.group_norm import GROUP_NORM
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

CHANNELS = 6


def run(
    x: npt.NDArray[np.floating], groups: int, opset: int = 19
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]:
    """The operator's result, and PyTorch's in float64."""
    rng = np.random.default_rng(3)
    scale, bias = (rng.normal(size=CHANNELS).astype(x.dtype) for _ in range(2))
    dtype = "float16" if x.dtype == np.float16 else "float"
    image, parameter = f"{dtype}[N,{CHANNELS},H,W]", f"{dtype}[{CHANNELS}]"
    inputs = {"x": image, "scale": parameter, "bias": parameter}
    proto = operator(GROUP_NORM, inputs, {"y": image}, opset, num_groups=groups, epsilon=1e-3)
    session = OnnxRuntimeSession(proto.SerializeToString())
    found = session.run({"x": x, "scale": scale, "bias": bias})["y"]
    wide = [torch.from_numpy(array.astype(np.float64)) for array in (x, scale, bias)]
    expected = torch.nn.functional.group_norm(wide[0], groups, wide[1], wide[2], 1e-3)
    return found, expected.numpy()


@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("size", [(2, 13, 9), (1, 1, 2), (3, 1, 40)])
def test_agrees_with_pytorch(groups: int, opset: int, size: tuple[int, int, int]) -> None:
    batch, height, width = size
    x = np.random.default_rng(0).normal(5, 2, (batch, CHANNELS, height, width))
    found, expected = run(x.astype(np.float32), groups, opset)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_large_images_keep_their_digits() -> None:
    x = np.random.default_rng(0).normal(100, 1, (1, CHANNELS, 300, 400)).astype(np.float32)
    found, expected = run(x, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_has_its_statistics_in_single() -> None:
    """In half precision the squares, and the sum of 1200 of them, would be infinite."""
    x = np.random.default_rng(0).normal(0, 3000, (1, CHANNELS, 20, 20)).astype(np.float16)
    found, expected = run(x, 2)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
