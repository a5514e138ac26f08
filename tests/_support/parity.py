"""The one parity assertion, and the one table of tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from adadm.export.networks import Network
from adadm.export.proof.parity import session_with_codes
from adadm.export.proof.pytorch import run_with_codes
from adadm.runtime.images.compare import Comparison, compare

# Largest error as a share of the expected peak.
TOLERANCES = {
    # float32 keeps 6e-8 a rounding; a network has some hundred roundings in a row.
    "float32": 3e-5,
    # float64 keeps 1e-16; what is larger than this is a mistake, not a rounding.
    "float64": 1e-10,
}


def run_both(
    network: Network, model: onnx.ModelProto, lr: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """`sr` of ONNX Runtime, and of PyTorch with the same hash codes where the network has any."""
    session, codes_of = session_with_codes(network, model)
    outputs = session.run({"lr": lr})
    codes = {name: outputs[value] for name, value in codes_of.items()}
    expected, _, rounds = run_with_codes(network, lr, codes)
    assert all(hashing.largest_gap <= TOLERANCES["float32"] for hashing in rounds), rounds
    return outputs["sr"], expected


def photograph_like(shape: tuple[int, int, int], white: float = 255) -> npt.NDArray[np.float32]:
    """A smooth random batch (N, 3, H, W), 0..white, from N, H and W."""
    batch, height, width = shape
    rng = np.random.default_rng(height)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(batch, 3, height, width)), axis=2), axis=3)
    spread = np.ptp(smooth) or 1.0
    image: npt.NDArray[np.float32] = ((smooth - smooth.min()) / spread * white).astype(np.float32)
    return image


def assert_parity(
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    tolerance: str,
    name: str = "output",
    border_px: int = 8,
) -> Comparison:
    """Names, shapes, data types, finiteness, and the largest error; prints where it is."""
    comparison = compare(name, found, expected, border_px)
    allowed = TOLERANCES[tolerance] * comparison.peak
    assert comparison.largest_error <= allowed, f"{comparison}; allowed {allowed:.3g} ({tolerance})"
    return comparison
