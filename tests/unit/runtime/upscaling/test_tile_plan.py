"""Which windows are chosen; sums of memory are done anew here, from the definition."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from adadm.runtime.errors import TilingError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.sessions.session import SizeRange
from adadm.runtime.upscaling.memory import MemoryModel
from adadm.runtime.upscaling.tile_plan import (
    DEFAULT_ACCURACY,
    LargestTile,
    Plan,
    Tile,
    choose_overlap,
    common_sizes,
    make_plan,
    memory_model,
)

MIB = 1 << 20
FIXED = [SizeRange((64, 80), (64, 80))]


def room(free_mib: float, upscale: int = 2, itemsize: int = 1, slope: int = 1500) -> LargestTile:
    return LargestTile(MemoryModel(35 * MIB, slope), int(free_mib * MIB), upscale, itemsize)


def sides(plan: Plan) -> tuple[int, int]:
    """Of the windows, without their overlap."""
    return plan.shape[0] - 2 * plan.overlap, plan.shape[1] - 2 * plan.overlap


def taken(plan: Plan, width: int, upscale: int, itemsize: int = 1, slope: int = 1500) -> int:
    """Bytes of a window, of its comparison, and of three times the rows that are done at once."""
    height = max(row[0][0].inner_stop - row[0][0].inner_start for row in plan.windows)
    rows = 3 * height * upscale * width * upscale * 3 * itemsize
    return 35 * MIB + (slope + 65) * plan.shape[0] * plan.shape[1] + rows


def test_auto_takes_the_whole_image_where_it_fits() -> None:
    # 35 MiB + (1500 B + 65 B to compare it + 3 * 12 B) * 60,000 px = 126.6 MiB, of 0.8 * 158.3 MiB
    assert make_plan((200, 300), "auto", 12, room(158.8)).is_whole
    plan = make_plan((200, 300), "auto", 12, room(200))
    assert str(plan) == "the whole image: it fits, 0.2 GiB are free"
    assert (plan.shape, plan.count, plan.overlap) == ((200, 300), 1, 0)
    assert not make_plan((200, 300), "auto", 12, room(157.5)).is_whole
    limited = make_plan((200, 300), "auto", 12, replace(room(200), is_limited=True))
    assert str(limited) == "the whole image: it fits, 0.2 GiB are left of the memory limit"


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
    assert plan.reason == "no tile fits for certain, 0.0 GiB are free"
    small = make_plan((20, 30), "auto", 12, room(1))
    assert small.is_whole and small.reason == "it is no larger than one tile"


def test_tiles_of_512_where_memory_is_unknown_and_the_image_is_no_small_one() -> None:
    plan = make_plan((2000, 3000), "auto", 12, None)
    assert sides(plan) == (512, 512)
    assert plan.reason == "its memory need is unknown"
    assert make_plan((1000, 1000), "auto", 12, None).is_whole
    assert make_plan((1001, 1000), "auto", 12, None).count == 4


def test_off_is_the_whole_image_whatever_is_free() -> None:
    plan = make_plan((5000, 7000), "off", 12, room(1))
    assert plan.is_whole and str(plan) == "the whole image: tiles are off"


def test_a_number_is_the_side_without_overlap() -> None:
    plan = make_plan((150, 300), 64, 12, room(1e6))
    assert str(plan) == (
        "2 x 5 windows of 88x88 px, which overlap by 12 px on each side: "
        "tiles of 64 px are required"
    )
    assert plan.count == 10
    assert make_plan((150, 300), 276, 12, None).reason == "it is no larger than one tile"
    assert make_plan((150, 301), 276, 12, None).shape == (150, 300)
    assert make_plan((3, 2), 1, 0, None).count == 6


@pytest.mark.parametrize("tile", ["auto", 50])
def test_a_fixed_size_decides_alone(tile: Any) -> None:
    plan = make_plan((150, 300), tile, 12, room(1), sizes=FIXED)
    assert plan.shape == (64, 80)
    assert plan.reason == "the model takes 80x64 px and nothing else"
    assert make_plan((64, 80), tile, 12, room(1), sizes=FIXED).is_whole
    wide = make_plan((64, 300), tile, 32, room(1), sizes=FIXED)  # its height needs no overlap
    assert (len(wide.windows), wide.shape) == (1, (64, 80))


def test_a_fixed_size_that_cannot_be_is_refused_with_the_remedy() -> None:
    with pytest.raises(TilingError, match=r"takes 80x64 px .* has 300x150, and tiles are off"):
        make_plan((150, 300), "off", 12, None, sizes=FIXED)
    assert make_plan((64, 80), "off", 12, None, sizes=FIXED).is_whole
    with pytest.raises(TilingError, match=r"takes 80x64 px .* the image has 300x60; export"):
        make_plan((60, 300), "auto", 12, None, sizes=FIXED)
    with pytest.raises(TilingError, match=r"an overlap of 32 px .* export a size above 64 px"):
        make_plan((65, 300), "auto", 32, None, sizes=FIXED)
    assert make_plan((65, 300), "auto", 31, None, sizes=FIXED).count == 2 * 14


SMALL, LARGE = SizeRange((64, 64), (256, 256)), SizeRange((200, 200), (720, 1280))


def test_an_image_in_a_range_is_run_whole() -> None:
    plan = make_plan((720, 1280), "auto", 12, None, sizes=[SMALL, LARGE])
    assert str(plan) == "the whole image: the model takes 200x200 to 1280x720 px"
    assert make_plan((720, 1280), "off", 12, None, sizes=[SMALL, LARGE]).is_whole
    for size in ((721, 1280), (63, 100)):
        with pytest.raises(TilingError, match=r"64x64 to 256x256 px or .*, and tiles are off"):
            make_plan(size, "off", 12, None, sizes=[SMALL, LARGE])


def test_auto_takes_the_windows_of_least_work() -> None:
    """Each is the largest of its range."""
    plan = make_plan((1400, 2500), "auto", 12, None, sizes=[SMALL, LARGE])
    assert (plan.shape, plan.count) == ((720, 1280), 4)  # 3.7 Mpx; 6 x 11 of 256x256 px are 4.3
    assert plan.reason == "the model takes 200x200 to 1280x720 px"
    plan = make_plan((2000, 3000), "auto", 12, None, sizes=[SMALL, LARGE])
    assert (plan.shape, plan.count) == ((256, 256), 9 * 13)  # 7.7 Mpx; 3 x 3 of the others 8.3
    low = make_plan((150, 3000), "auto", 12, None, sizes=[SMALL, LARGE])
    assert low.shape == (150, 256)
    barely = make_plan((260, 1300), "auto", 12, None, sizes=[SMALL, LARGE])
    assert (barely.shape, barely.count) == ((260, 1280), 2)


def test_a_range_counts_and_not_the_memory_that_was_planned_for_it() -> None:
    for largest in (None, room(1), room(1e6)):
        assert make_plan((720, 1280), "auto", 12, largest, sizes=[LARGE]).is_whole
    assert make_plan((2000, 3000), "auto", 12, None, sizes=[SMALL]).shape == (256, 256)


def test_a_tile_that_is_asked_for_is_taken_or_refused_with_the_range() -> None:
    plan = make_plan((500, 700), 200, 12, None, sizes=[SMALL])
    assert (plan.shape, plan.reason) == ((224, 224), "tiles of 200 px are required")
    assert make_plan((100, 700), 200, 12, None, sizes=[SMALL]).shape == (100, 224)
    assert make_plan((250, 250), 40, 12, None, sizes=[SMALL]).shape == (
        64,
        64,
    )  # also if held whole
    assert make_plan((250, 250), 232, 12, None, sizes=[SMALL]).is_whole
    for tile, window in ((233, 257), (39, 63)):
        with pytest.raises(
            TilingError,
            match=rf"takes 64x64 to 256x256 px, and tiles of {tile} px with an overlap of 12 px on "
            rf"each side are windows of {window}x{window} px; give another --tile, or build for",
        ):
            make_plan((500, 700), tile, 12, None, sizes=[SMALL])


def test_an_image_below_all_ranges_is_refused_with_the_remedy() -> None:
    for tile in ("auto", 100):
        with pytest.raises(
            TilingError,
            match=r"64x64 to 256x256 px or .*, the image has 3000x63; .*build for sizes "
            r"no larger than the image \(--min\)",
        ):
            make_plan((63, 3000), tile, 12, None, sizes=[SMALL, LARGE])


def test_models_for_tiles_are_asked_only_when_it_comes_to_tiles() -> None:
    def never() -> list[SizeRange]:
        raise AssertionError("asked")

    assert make_plan((256, 256), "auto", 12, None, sizes=[SMALL], tile_sizes=never).is_whole
    assert make_plan((256, 256), 240, 12, None, sizes=[SMALL], tile_sizes=never).is_whole
    plan = make_plan(
        (300, 300),
        "auto",
        12,
        None,
        sizes=[SMALL],
        tile_sizes=lambda: [SizeRange((32, 32), (96, 96))],
    )
    assert plan.shape == (96, 96)
    assert plan.reason == "tiles of the model take 32x32 to 96x96 px"
    alone = make_plan((300, 300), "auto", 12, None, sizes=[SMALL], tile_sizes=lambda: [LARGE])
    assert (alone.count, alone.shape) == (1, (300, 300))  # what the model itself does not take
    with pytest.raises(TilingError, match=r"^tiles of the model take 200x200 .* has 300x100"):
        make_plan((100, 300), "auto", 12, None, sizes=[SMALL], tile_sizes=lambda: [LARGE])


RANGES = [
    [SizeRange()],
    [SizeRange((40, 40), (40, 40))],
    [SizeRange((16, 24), (48, 40))],
    [SizeRange((8, 8), (20, 20)), SizeRange((30, 10), (64, 64))],
    [SizeRange((50, 50), (50, 50)), SizeRange((1, 1), (30, 200))],
    [SizeRange((32, 1), (32, SizeRange().most[1]))],
]


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("overlap", [0, 3, 12])
def test_windows_are_in_a_range_wherever_that_can_be(ranges: list[SizeRange], overlap: int) -> None:
    lengths = (1, 7, 8, 16, 23, 24, 25, 30, 32, 39, 40, 41, 49, 50, 51, 64, 65, 97, 128, 301)
    tiles: list[Tile] = ["auto", "off", 1, 8, 16, 17, 24, 40]
    for size in itertools.product(lengths, lengths[::3]):
        for tile in tiles:
            try:
                plan = make_plan(size, tile, overlap, None, sizes=ranges)
            except TilingError:
                assert not is_possible(size, tile, overlap, ranges), (size, tile)
                continue
            assert is_possible(size, tile, overlap, ranges), (size, tile)
            assert any(taken.holds(plan.shape) for taken in ranges)
            if isinstance(tile, int) and not any(taken.is_fixed for taken in ranges):
                wanted = tuple(min(length, tile + 2 * overlap) for length in size)
                assert plan.shape == wanted


def is_possible(size: tuple[int, int], tile: Tile, overlap: int, ranges: list[SizeRange]) -> bool:
    """By trying each window."""
    if tile == "off":
        return any(taken.holds(size) for taken in ranges)
    for taken in ranges:
        axes = []
        for length, least, most in zip(size, taken.least, taken.most, strict=True):
            windows = set(range(2 * overlap + 1, length)) | {length}
            if tile != "auto" and not taken.is_fixed:
                windows &= {min(length, tile + 2 * overlap)}
            axes.append(any(least <= window <= most for window in windows))
        if all(axes):
            return True
    return False


def test_what_two_models_take_both() -> None:
    first = [SizeRange((10, 10), (50, 50)), SizeRange((100, 100), (100, 100))]
    second = [SizeRange((1, 40), (20, 60)), SizeRange((60, 60), (200, 200))]
    shared = common_sizes(first, second)
    assert shared == [SizeRange((10, 40), (20, 50)), SizeRange((100, 100), (100, 100))]
    for size in itertools.product(range(1, 120, 3), range(1, 120, 3)):
        both = all(any(taken.holds(size) for taken in model) for model in (first, second))
        assert any(taken.holds(size) for taken in shared) == both
    assert common_sizes(first, [SizeRange()]) == first
    assert common_sizes(first, []) == []


# Overlap and largest error in grey levels, as export measures them.
HALO = [(0, 35.0), (4, 1.3), (8, 0.049), (12, 0.00088), (32, 2e-4), (48, 0.03)]


@pytest.mark.parametrize(
    ("halo_errors", "receptive_field", "accuracy", "overlap"),
    [
        (HALO, "20", DEFAULT_ACCURACY, 12),
        (HALO, "20", 0.196, 8),
        (HALO, "20", 0.195, 12),
        (HALO, "20", 1000, 0),
        (HALO, "20", 1e-5, 20),
        (None, "20", 1000, 20),  # not measured
        (HALO, "image", DEFAULT_ACCURACY, 12),
    ],
)
def test_the_least_overlap_that_was_four_times_as_good(
    halo_errors: list[tuple[int, float]] | None,
    receptive_field: str,
    accuracy: float,
    overlap: int,
) -> None:
    metadata = ModelMetadata(halo_errors=halo_errors, receptive_field=receptive_field)
    assert choose_overlap(metadata, accuracy) == (overlap, "")


def test_a_network_that_sees_all_is_warned_of_with_what_was_measured() -> None:
    overlap, warning = choose_overlap(
        ModelMetadata(halo_errors=HALO, receptive_field="image"), 1e-5
    )
    assert overlap == 32
    assert "looks at the whole image" in warning
    # the largest from 32 px on, where it need not fall
    assert warning.endswith("an overlap of 32 px was off by up to 0.03 grey levels")
    for unmeasured in (None, [(0, 35.0), (16, 0.5)]):
        overlap, warning = choose_overlap(ModelMetadata(halo_errors=unmeasured), DEFAULT_ACCURACY)
        assert overlap == 32
        assert warning.endswith("an overlap of 32 px was not measured")


def test_of_an_unmeasured_backend_the_hungriest_is_taken() -> None:
    metadata = ModelMetadata(memory={"cpu": (35_000_000, 1500), "openvino": (89_000_000, 1200)})
    assert memory_model(metadata, "openvino") == MemoryModel(89_000_000, 1200)
    assert memory_model(metadata, "cuda") == MemoryModel(35_000_000, 1500)
    assert memory_model(ModelMetadata(), "cpu") is None
