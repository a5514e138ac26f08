"""Frames of a film by their times in ms. A new film is one line."""

from __future__ import annotations

import pytest

from adadm.runtime.video.film_timing import FilmTiming

EVEN = [40.0 * i for i in range(50)]
NTSC = [float(round(i * 1001 / 30)) for i in range(60)]
SCREEN = [0.0, 100.0, 116.0, 133.0, 2000.0, 2016.0, 5000.0, 5033.0, 9000.0, 9016.0]
SLOWER = [*(20.0 * i for i in range(25)), *(500 + 80.0 * i for i in range(25))]

# Times, frames and rate by the header, whether the number is exact, a fault, a warning.
FILMS = [
    ("whole", EVEN, 50, 25, True, "", ""),
    ("an estimate, one more", EVEN, 51, 25, False, "", ""),
    ("rounded to ms", NTSC, 60, 30 / 1.001, False, "", ""),
    ("cut, exact", EVEN[:20], 50, 25, True, "expected 50 frames by its header, got 20", ""),
    ("cut, an estimate", EVEN[:20], 50, 25, False, "expected 50 frames", ""),
    ("a hole", EVEN[:10] + EVEN[30:], 50, 25, False, "got 30: it is damaged or cut", ""),
    ("variable", SLOWER, 50, 20.1, True, "", "20 to 80 ms apart, those of the result 50 ms: 2.42"),
    ("variable, an estimate", SLOWER, 62, 25, False, "", "2.42 s become 1.96 s"),
    ("variable and cut", SLOWER[:26], 62, 25, False, "got 26", "20 to 20 ms apart"),
    ("a screen", SCREEN, 540, 60, False, "", "16 to 3967 ms apart"),
    ("unknown", EVEN, 0, 0, False, "", ""),
    ("one frame", [0.0], 1, 25, True, "", ""),
]


@pytest.mark.parametrize(
    ("times", "expected", "rate", "is_exact", "fault", "warning"),
    [row[1:] for row in FILMS],
    ids=[row[0] for row in FILMS],
)
def test_films(
    times: list[float], expected: float, rate: float, is_exact: bool, fault: str, warning: str
) -> None:
    timing = FilmTiming(expected, rate, is_exact=is_exact)
    for time in times:
        timing.see(time)
    assert timing.fault == ""  # of a film that was left before its end
    timing.end()
    for found, part in ((timing.fault, fault), (timing.warning, warning)):
        assert (part in found) if part else (found == ""), found
