"""Which windows are chosen; sums of memory are done anew here, from the definition."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adadm.runtime.errors import TilingError
from adadm.runtime.memory import MemoryModel
from adadm.runtime.tiling import (
    DEFAULT_ACCURACY,
    LargestTile,
    Plan,
    choose_overlap,
    make_plan,
    memory_model,
)

MIB = 1 << 20


def room(free_mib: float, upscale: int = 2, itemsize: int = 1, slope: int = 1500) -> LargestTile:
    return LargestTile(MemoryModel(35 * MIB, slope), int(free_mib * MIB), upscale, itemsize)


def sides(plan: Plan) -> tuple[int, int]:
    """Of the windows, without their overlap."""
    return plan.shape[0] - 2 * plan.overlap, plan.shape[1] - 2 * plan.overlap


def taken(plan: Plan, width: int, upscale: int, itemsize: int = 1, slope: int = 1500) -> int:
    """Bytes of one window, and of three times the rows of the result that are done at once."""
    height = max(row[0][0].inner_stop - row[0][0].inner_start for row in plan.windows)
    rows = 3 * height * upscale * width * upscale * 3 * itemsize
    return 35 * MIB + slope * plan.shape[0] * plan.shape[1] + rows


def test_auto_takes_the_whole_image_where_it_fits() -> None:
    # 35 MiB + 1500 B * 60,000 px + 3 * 12 B * 60,000 px = 123 MiB, of 0.8 * 154 MiB
    assert make_plan((200, 300), "auto", 12, room(154.2)).is_whole
    plan = make_plan((200, 300), "auto", 12, room(200))
    assert str(plan) == "the whole image: it fits, 0.2 GiB are free"
    assert (plan.shape, plan.count, plan.overlap) == ((200, 300), 1, 0)
    assert not make_plan((200, 300), "auto", 12, room(150)).is_whole


@pytest.mark.parametrize("size", [(3000, 4000), (4000, 3000), (100, 20_000), (20_000, 100)])
@pytest.mark.parametrize("free_mib", [120, 500, 2000])
def test_auto_takes_the_largest_tile_that_fits(size: tuple[int, int], free_mib: int) -> None:
    plan = make_plan(size, "auto", 12, room(free_mib))
    assert not plan.is_whole
    assert plan.reason == f"the largest tile that fits, {free_mib / 1024:.1f} GiB are free"
    assert taken(plan, size[1], 2) <= 0.8 * free_mib * MIB
    side = max(sides(plan))
    assert side % 32 == 0
    next_one = make_plan(size, side + 32, 12, None)
    assert next_one.is_whole or taken(next_one, size[1], 2) > 0.8 * free_mib * MIB


def test_rows_of_a_very_wide_result_are_counted() -> None:
    """16 bits at x4: each row of the image makes four of 2.4 MB."""
    size, free_mib = (2000, 100_000), 5000
    plan = make_plan(size, "auto", 12, room(free_mib, upscale=4, itemsize=2))
    assert taken(plan, size[1], 4, itemsize=2) <= 0.8 * free_mib * MIB
    without = make_plan(size, "auto", 12, room(free_mib, upscale=1))
    assert max(sides(plan)) < max(sides(without)) / 2
    bytes_of_8_bits = make_plan(size, "auto", 12, room(free_mib, upscale=4))
    assert max(sides(plan)) < max(sides(bytes_of_8_bits))


def test_where_nothing_fits_the_smallest_tile_is_tried_and_that_is_said() -> None:
    plan = make_plan((500, 700), "auto", 12, room(1))
    assert sides(plan) == (32, 32)
    assert plan.reason == "no tile is sure to fit, 0.0 GiB are free"
    small = make_plan((20, 30), "auto", 12, room(1))
    assert small.is_whole and small.reason == "it is no larger than one tile"


def test_tiles_of_512_where_memory_is_unknown_and_the_image_is_no_small_one() -> None:
    plan = make_plan((2000, 3000), "auto", 12, None)
    assert sides(plan) == (512, 512)
    assert plan.reason == "how much memory it takes is unknown"
    assert make_plan((1000, 1000), "auto", 12, None).is_whole
    assert make_plan((1001, 1000), "auto", 12, None).count == 4


def test_off_is_the_whole_image_whatever_is_free() -> None:
    plan = make_plan((5000, 7000), "off", 12, room(1))
    assert plan.is_whole and str(plan) == "the whole image: asked for"


def test_a_number_is_the_side_without_overlap() -> None:
    plan = make_plan((150, 300), 64, 12, room(1e6))
    assert str(plan) == (
        "2 x 5 windows of 88x88 px, which overlap by 12 px on each side: "
        "tiles of 64 px were asked for"
    )
    assert plan.count == 10
    assert make_plan((150, 300), 276, 12, None).reason == "it is no larger than one tile"
    assert make_plan((150, 301), 276, 12, None).shape == (150, 300)
    assert make_plan((3, 2), 1, 0, None).count == 6


@pytest.mark.parametrize("tile", ["auto", 50])
def test_a_fixed_size_decides_alone(tile: Any) -> None:
    plan = make_plan((150, 300), tile, 12, room(1), fixed=(64, 80))
    assert plan.shape == (64, 80)
    assert plan.reason == "the model takes 80x64 px and nothing else (--static)"
    assert make_plan((64, 80), tile, 12, room(1), fixed=(64, 80)).is_whole
    wide = make_plan((64, 300), tile, 32, room(1), fixed=(64, 80))  # its height needs no overlap
    assert (len(wide.windows), wide.shape) == (1, (64, 80))


def test_a_fixed_size_that_cannot_be_is_refused_with_the_remedy() -> None:
    with pytest.raises(TilingError, match=r"takes 80x64 px .* has 300x150, and tiles are off"):
        make_plan((150, 300), "off", 12, None, fixed=(64, 80))
    assert make_plan((64, 80), "off", 12, None, fixed=(64, 80)).is_whole
    with pytest.raises(TilingError, match=r"takes 80x64 px .* the image has 300x60; export"):
        make_plan((60, 300), "auto", 12, None, fixed=(64, 80))
    with pytest.raises(TilingError, match=r"an overlap of 32 px .* export a size above 64 px"):
        make_plan((65, 300), "auto", 32, None, fixed=(64, 80))
    assert make_plan((65, 300), "auto", 31, None, fixed=(64, 80)).count == 2 * 14


# Overlap and largest error in grey levels, as export measures them.
HALO = json.dumps([[0, 35.0], [4, 1.3], [8, 0.049], [12, 0.00088], [32, 2e-4], [48, 0.03]])


@pytest.mark.parametrize(
    ("metadata", "accuracy", "overlap"),
    [
        ({"adadm.halo_errors": HALO, "adadm.receptive_field": "20"}, DEFAULT_ACCURACY, 12),
        ({"adadm.halo_errors": HALO, "adadm.receptive_field": "20"}, 0.196, 8),
        ({"adadm.halo_errors": HALO, "adadm.receptive_field": "20"}, 0.195, 12),
        ({"adadm.halo_errors": HALO, "adadm.receptive_field": "20"}, 1000, 0),
        ({"adadm.halo_errors": HALO, "adadm.receptive_field": "20"}, 1e-5, 20),
        ({"adadm.receptive_field": "20"}, 1000, 20),  # not measured
        ({"adadm.halo_errors": HALO, "adadm.receptive_field": "image"}, DEFAULT_ACCURACY, 12),
    ],
)
def test_the_least_overlap_that_was_four_times_as_good(
    metadata: dict[str, str], accuracy: float, overlap: int
) -> None:
    assert choose_overlap(metadata, accuracy) == (overlap, "")


def test_a_network_that_sees_all_is_warned_of_with_what_was_measured() -> None:
    overlap, warning = choose_overlap(
        {"adadm.halo_errors": HALO, "adadm.receptive_field": "image"}, 1e-5
    )
    assert overlap == 32
    assert "looks at the whole image" in warning
    # the largest from 32 px on, where it need not fall
    assert warning.endswith("an overlap of 32 px was off by up to 0.03 grey levels")
    for unmeasured in ({}, {"adadm.halo_errors": "[[0, 35.0], [16, 0.5]]"}):
        overlap, warning = choose_overlap(unmeasured, DEFAULT_ACCURACY)
        assert overlap == 32
        assert warning.endswith("an overlap of 32 px was not measured")


def test_of_an_unmeasured_backend_the_hungriest_is_taken() -> None:
    metadata = {"adadm.memory": '{"cpu": [35000000, 1500], "openvino": [89000000, 1200]}'}
    assert memory_model(metadata, "openvino") == MemoryModel(89_000_000, 1200)
    assert memory_model(metadata, "cuda") == MemoryModel(35_000_000, 1500)
    assert memory_model({}, "cpu") is None
