from __future__ import annotations

import numpy as np
import pytest

from adadm.export.proof import drawn_pictures
from adadm.export.proof.drawn_pictures import draw_at_random, mix
from adadm.export.proof.patterns import KINDS, UNSEEN, Kind, Pattern


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("side", [40, 96])
def test_the_pictures_are_many_and_always_the_same(side: int, unseen: bool) -> None:
    pictures = drawn_pictures.drawn_pictures(side, unseen=unseen)
    again = drawn_pictures.drawn_pictures(side, unseen=unseen)
    for name, picture in pictures.items():
        assert picture.shape == (side, side, 3)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, again[name])
        full = "_dim" not in name
        assert np.ptp(picture.astype(int)) > (240 if full else 40), name
    assert len({picture.tobytes() for picture in pictures.values()}) > 0.85 * len(pictures)


def test_inverted_pictures_are_the_others_negatives() -> None:
    pictures = drawn_pictures.drawn_pictures(48)
    for name in (n for n in pictures if f"{n}_inverted" in pictures):
        np.testing.assert_allclose(255.0 - pictures[name], pictures[f"{name}_inverted"], atol=1)


def test_checkers_and_stripes_have_the_period_that_they_are_called_by() -> None:
    pictures = drawn_pictures.drawn_pictures(48)
    for name, shift in (("checker_1", 1), ("checker_2", 2), ("checker_8", 8)):
        picture = pictures[name].astype(int)
        np.testing.assert_array_equal(picture[:, shift:] + picture[:, :-shift], 255)


def test_training_never_sees_the_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[str] = set()

    def noted(name: str, kind: Kind) -> Kind:
        def pattern(side: int, scale: int, rng: np.random.Generator) -> Pattern:
            drawn.add(name)
            return kind.pattern(side, scale, rng)

        return Kind(pattern, kind.scales)

    every = {**KINDS, **UNSEEN}
    monkeypatch.setattr(drawn_pictures, "KINDS", {name: noted(name, every[name]) for name in KINDS})
    rng = np.random.default_rng(0)
    pictures = [draw_at_random(24, rng) for _ in range(120)]
    assert drawn == KINDS.keys()
    assert KINDS.keys().isdisjoint(UNSEEN)
    extremes = [set(np.unique(picture)) <= {0, 255} for picture in pictures]
    assert 0.1 < np.mean(extremes) < 0.6


def test_colours_are_mixed_channel_by_channel() -> None:
    share = np.array([[[0.0, 0.5, 1.0]]])
    np.testing.assert_array_equal(mix(share, (10, 20, 30), (110, 220, 130)), [[[110, 120, 30]]])
    np.testing.assert_array_equal(mix(share[..., 1], (0, 0, 0), (255, 1, 9)), [[[128, 0, 4]]])
