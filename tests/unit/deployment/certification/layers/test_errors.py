"""Sums of errors, against the same figures computed at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from adadm.deployment.certification.layers.errors import LayerErrors


def test_errors_by_channel_and_at_the_border() -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(100, [[[[1.0]], [[3.0]], [[0.1]]]], (2, 3, 24, 32)).astype(np.float32)
    error = rng.normal(0, 0.01, expected.shape)
    error[:, :, 4:-4, 4:-4] /= 10
    error[:, 1] += 0.02
    found = (1.5 * (expected - 100) + 100 + error).astype(np.float32)
    errors = LayerErrors()
    for one, other in zip(expected, found, strict=True):  # of a network that enlarges by 2
        errors.add(one[None], other[None], height=12)
    # Independently: all at once, with a mask.
    border = np.ones(expected.shape[2:], bool)
    border[4:-4, 4:-4] = False
    difference = found.astype(np.float64) - expected
    signal = expected.astype(np.float64).var(axis=(0, 2, 3)).mean()

    def db(part: Any) -> float:
        return float(10 * np.log10(signal / (part**2).mean()))

    assert errors.snr_db == pytest.approx(db(difference))
    assert errors.border_db == pytest.approx(db(difference[..., border]))
    assert errors.interior_db == pytest.approx(db(difference[..., ~border]))
    means = np.abs(difference.mean(axis=(0, 2, 3)))
    assert errors.shifted_channel == means.argmax()
    assert errors.largest_shift == pytest.approx(means.max())
    assert errors.relative_shift == pytest.approx(means.max() / np.sqrt(signal))
    assert errors.gain == pytest.approx(1.5, abs=0.01)


def test_errors_of_what_has_no_signal_no_interior_or_no_number() -> None:
    constant, small = np.full((1, 2, 3, 3), 7.0), np.arange(18.0).reshape(1, 2, 3, 3)

    def of(expected: Any, found: Any) -> LayerErrors:
        errors = LayerErrors()
        errors.add(expected, found, height=3)
        return errors

    assert of(small, small).snr_db == math.inf
    assert of(small, small + 1).interior_db == of(small, small + 1).snr_db
    assert of(constant, constant).relative_shift == 0
    assert of(constant, constant + 1).snr_db == -math.inf
    assert of(constant, constant + 1).relative_shift == math.inf
    for number in (math.nan, math.inf):
        broken = of(small, np.where(small == 4, number, small))
        assert broken.snr_db == -math.inf
        assert broken.largest_shift == math.inf
        assert broken.gain == 1
