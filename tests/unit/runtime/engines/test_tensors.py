from __future__ import annotations

import pytest

from adadm.runtime.engines.tensorrt_api import Profile, Shape
from adadm.runtime.engines.tensors import choose_profile
from adadm.runtime.errors import SessionError


def images(least: int, usual: int, most: int, batch: int = 1) -> dict[str, Profile]:
    """Squares, with a row of weights for each of their columns."""
    sides = (least, usual, most)
    return {
        "lr": Profile(*((batch, 3, side, side) for side in sides)),
        "columns": Profile(*((1, side) for side in sides)),
    }


def fed(height: int, width: int, batch: int = 1) -> dict[str, Shape]:
    return {"lr": (batch, 3, height, width), "columns": (1, width)}


LARGE, SMALL, EXACT = images(64, 512, 1024), images(16, 128, 256), images(720, 720, 720)
PROFILES = (LARGE, SMALL, EXACT)


@pytest.mark.parametrize(
    ("shapes", "profile"),
    [
        (fed(16, 16), 1),
        (fed(63, 100), 1),
        (fed(64, 64), 1),  # both hold it: that of the smaller optimum
        (fed(256, 256), 1),
        (fed(257, 256), 0),
        (fed(64, 1024), 0),
        (fed(720, 720), 0),  # the optimum of EXACT is larger than that of LARGE
    ],
)
def test_the_smallest_profile_that_holds_the_shapes(shapes: dict[str, Shape], profile: int) -> None:
    assert choose_profile(PROFILES, shapes) == profile


def test_of_profiles_alike_the_first_is_taken() -> None:
    assert choose_profile((SMALL, SMALL), fed(16, 16)) == 0


@pytest.mark.parametrize(
    "shapes",
    [
        fed(15, 16),
        fed(1025, 64),
        fed(64, 64, batch=2),
        {"lr": (1, 3, 64, 64), "columns": (1, 2000)},  # one input is enough
        {"lr": (3, 64, 64), "columns": (1, 64)},
    ],
)
def test_shapes_that_no_profile_holds_are_refused_with_all_ranges(shapes: dict[str, Shape]) -> None:
    lr = "x".join(map(str, shapes["lr"]))
    message = (
        rf"(?s)^lr {lr}, columns 1x\d+ is outside every profile of the engine:\n"
        r"  0: lr 1x3x64x64, columns 1x64 to lr 1x3x1024x1024, columns 1x1024\n"
        r"  1: lr 1x3x16x16, columns 1x16 to lr 1x3x256x256, columns 1x256\n"
        r".*Build an engine for it \(adadm build --min --opt --max\), .*adadm upscale --tile$"
    )
    with pytest.raises(SessionError, match=message):
        choose_profile(PROFILES, shapes)
