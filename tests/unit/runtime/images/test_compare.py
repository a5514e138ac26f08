from __future__ import annotations

import math

import numpy as np
import pytest

from adadm.runtime.errors import ParityError
from adadm.runtime.images.compare import compare

EXPECTED = np.random.default_rng(0).uniform(-2, 8, (2, 3, 10, 12)).astype(np.float32)


def test_equal_outputs() -> None:
    result = compare("case", EXPECTED, EXPECTED, border_px=2)
    assert (result.largest_error, result.border_error, result.interior_error) == (0, 0, 0)
    assert result.psnr_db == math.inf


def test_border_and_interior_are_told_apart() -> None:
    found = EXPECTED.copy()
    found[1, 2, 5, 6] += 0.25
    found[0, 0, 1, 6] -= 0.5
    result = compare("case", found, EXPECTED, border_px=2)
    assert result.interior_error == pytest.approx(0.25, rel=1e-5)
    assert result.border_error == pytest.approx(0.5, rel=1e-5)
    assert result.worst_at == (0, 0, 1, 6)
    peak, error = float(np.abs(EXPECTED).max()), (0.25**2 + 0.5**2) / EXPECTED.size
    assert result.psnr_db == pytest.approx(10 * math.log10(peak**2 / error), rel=1e-5)
    assert "border 0.5, interior 0.25" in str(result)


def test_without_an_interior() -> None:
    result = compare("case", EXPECTED[..., :4, :], EXPECTED[..., :4, :] + 1, border_px=2)
    assert result.interior_error is None
    assert result.border_error == pytest.approx(1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    found = EXPECTED.copy()
    found[0, 1, 2, 3] = value
    with pytest.raises(ParityError, match=r"the found output has (nan|inf) at \(0, 1, 2, 3\)"):
        compare("case", found, EXPECTED, border_px=2)
    with pytest.raises(ParityError, match="the expected output has"):
        compare("case", EXPECTED, found, border_px=2)


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(ParityError, match=r"expected .*, got float32 \(1, 3, 10, 12\)"):
        compare("case", EXPECTED[:1], EXPECTED, border_px=2)
    with pytest.raises(ParityError, match="got float64"):
        compare("case", EXPECTED.astype(np.float64), EXPECTED, border_px=2)
