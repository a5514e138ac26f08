"""The one parity assertion, and the one table of tolerances."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from adadm.runtime.compare import Comparison, compare

# Largest error as a share of the expected peak.
TOLERANCES = {
    # float32 keeps 6e-8 a rounding; a network has some hundred roundings in a row.
    "float32": 3e-5,
    # float64 keeps 1e-16; what is larger than this is a mistake, not a rounding.
    "float64": 1e-10,
}


def assert_parity(
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    tolerance: str,
    name: str = "output",
    border_px: int = 8,
) -> Comparison:
    """Names, shapes, data types, finiteness, and the largest error; prints where it is."""
    result = compare(name, found, expected, border_px)
    allowed = TOLERANCES[tolerance] * result.peak
    assert result.largest_error <= allowed, f"{result}; allowed {allowed:.3g} ({tolerance})"
    return result
