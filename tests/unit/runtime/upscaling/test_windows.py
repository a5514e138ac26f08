from __future__ import annotations

import itertools

import numpy as np
import pytest

from adadm.runtime.upscaling.windows import grid, spans

AXES = [
    (length, size, overlap)
    for length in range(1, 41)
    for size in range(1, 16)
    for overlap in range((size - 1) // 2 + 1)
]


@pytest.mark.parametrize("longest", [10, 20, 30, 40])
def test_every_axis_is_covered_once_by_windows_of_one_size(longest: int) -> None:
    for length, size, overlap in AXES:
        if not longest - 10 < length <= longest:
            continue
        case = (length, size, overlap)
        pixels = np.arange(length)
        cut = spans(length, size, overlap)
        windows = [pixels[span.start : span.stop] for span in cut]
        assert {len(window) for window in windows} == {min(size, length)}, case
        shares = [window[span.inside] for window, span in zip(windows, cut, strict=True)]
        assert all(len(share) for share in shares), case
        np.testing.assert_array_equal(np.concatenate(shares), pixels, str(case))
        for span in cut:
            assert 0 <= span.start <= span.inner_start < span.inner_stop <= span.stop <= length
            assert span.inner_start in (0, max(span.inner_start, span.start + overlap)), case
            assert span.inner_stop in (length, min(span.inner_stop, span.stop - overlap)), case


def test_there_are_no_more_windows_than_needed() -> None:
    for length, size, overlap in AXES:
        most = size - 2 * overlap  # that a window in the middle can answer for
        needed = 1 if length <= size else -(-(length - 2 * overlap) // most)
        assert len(spans(length, size, overlap)) == needed, (length, size, overlap)


def test_a_cut_by_hand() -> None:
    """Windows of 10 with 3 around: the last one moves back from 12..22 to 10..20."""
    cut = [(s.start, s.stop, s.inner_start, s.inner_stop) for s in spans(20, 10, 3)]
    assert cut == [(0, 10, 0, 7), (4, 14, 7, 11), (8, 18, 11, 13), (10, 20, 13, 20)]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (30, 30)])
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_a_grid_puts_an_image_together(size: tuple[int, int], overlap: int) -> None:
    height, width = 17, 23
    window = (size[0] + 2 * overlap, size[1] + 2 * overlap)
    image = np.arange(height * width).reshape(height, width)
    windows = grid(height, width, window, overlap)
    assert len({len(row) for row in windows}) == 1
    rows = []
    for row in windows:
        assert len({rows_of for rows_of, _ in row}) == 1
        shares = [
            image[r.start : r.stop, c.start : c.stop][r.inside, c.inside].tolist() for r, c in row
        ]
        rows += [list(itertools.chain.from_iterable(lines)) for lines in zip(*shares, strict=True)]
    np.testing.assert_array_equal(rows, image)
