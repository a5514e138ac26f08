from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from _support.networks import random_network
from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import reduce
from training.crops import Crops, Pair, make_pair, make_sharp_pair
from training.step import Phase, Step

CPU = torch.device("cpu")
PATCH = 6


def picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def crops(drawn_share: float = 0.0, upscale: int = 2, **others: Any) -> Crops:
    photographs = [make_pair(picture(n, 40 + n, 31 + 7 * n), upscale) for n in range(3)]
    drawn = [make_pair(picture(9, 28, 28), upscale)]
    options: dict[str, Any] = {"patch": PATCH, "rgb_range": 255.0, "device": CPU, **others}
    return Crops(photographs, drawn, drawn_share=drawn_share, **options)


def test_a_pair_is_a_picture_and_its_reduction() -> None:
    pair = make_pair(picture(0, 41, 31), 2)
    assert pair.hr.shape == (40, 30, 3)
    np.testing.assert_array_equal(pair.lr, reduce(pair.hr, 2))


@pytest.mark.parametrize("upscale", [2, 3])
@pytest.mark.parametrize("turn", range(8))
def test_crops_are_cut_where_they_were_chosen_and_turned(turn: int, upscale: int) -> None:
    source = crops(drawn_share=0.5, upscale=upscale)
    pairs = [make_pair(picture(n, 40 + n, 31 + 7 * n), upscale) for n in range(3)]
    top, left = 3, 2
    places = torch.tensor([[n, top, left, turn] for n in range(3)]).T
    for pair, lr, hr in zip(pairs, *source.cut(places), strict=True):
        for image, crop, factor in ((pair.lr, lr, 1), (pair.hr, hr, upscale)):
            rows = slice(top * factor, (top + PATCH) * factor)
            columns = slice(left * factor, (left + PATCH) * factor)
            expected = image[rows, columns]
            if turn & 1:
                expected = expected.transpose(1, 0, 2)
            if turn & 2:
                expected = expected[::-1]
            if turn & 4:
                expected = expected[:, ::-1]
            np.testing.assert_array_equal(crop.numpy().transpose(1, 2, 0), expected)


def test_places_lie_inside_and_reach_the_borders() -> None:
    source = crops(drawn_share=0.25)
    chosen, top, left, turn = source.choose(4000, torch.Generator().manual_seed(0))
    for kept, (rows, columns) in enumerate(source.free.tolist()):
        inside = chosen == kept
        assert set(top[inside].tolist()) == set(range(rows))
        assert set(left[inside].tolist()) == set(range(columns))
    assert set(turn.tolist()) == set(range(8))
    assert (chosen == 3).double().mean().item() == pytest.approx(0.25, abs=0.03)
    areas = [(20 + n // 2) * ((31 + 7 * n) // 2) for n in range(3)]
    counted = torch.bincount(chosen, minlength=4)[:3].double()
    np.testing.assert_allclose(counted / counted.sum(), np.array(areas) / sum(areas), atol=0.03)


def test_a_sharp_pair_keeps_its_pixels() -> None:
    lr = picture(0, 7, 5)
    pair = make_sharp_pair(lr, 3)
    assert pair.lr is lr
    for row, column in ((0, 0), (1, 2), (2, 1)):
        np.testing.assert_array_equal(pair.hr[row::3, column::3], lr)


def test_pictures_too_small_for_a_crop_are_left_out() -> None:
    small, large = make_pair(picture(0, 8, 90), 2), make_pair(picture(1, 40, 40), 2)
    options: dict[str, Any] = {"drawn_share": 0.0, "patch": 9, "rgb_range": 1.0, "device": CPU}
    assert Crops([small, large], [], **options).pictures == 1
    with pytest.raises(ImageError, match="at least 9x9 px after reduction"):
        Crops([small], [], **options)


def trained(
    phase: Phase, steps: int = 2
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state of a network before and after some steps."""
    network = random_network("edsr", 2, blocks=1, features=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    source = crops()
    step = Step(network, source, batch=3, clip=10.0, compiled=False, device=CPU)
    step.learning_rate.fill_(1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        step(source.choose(3, generator), phase)
    assert step.loss.item() > 0
    return before, network.state_dict()


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_statistics_stay_and_the_weights_learn(frozen: bool) -> None:
    before, after = trained(Phase(half=False, frozen=frozen))
    for name in ("body.0.norm1.weight", "body.0.conv1.weight", "body.0.phi.weight"):
        assert not torch.equal(before[name], after[name]), name
    for name in ("running_mean", "running_var"):
        stays = torch.equal(before[f"body.0.norm1.{name}"], after[f"body.0.norm1.{name}"])
        assert stays == frozen


def test_one_crop_that_runs_away_does_not_outweigh_the_others() -> None:
    """Its gradient is that of a logarithm, and the step is finite."""

    class Tail(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            gain = torch.tensor([1.0, 1.0, 1e30]).reshape(3, 1, 1, 1)
            return nn.functional.interpolate(features[:, :3] * gain, scale_factor=2)

    network = random_network("edsr", 2, blocks=1, features=4).train()
    network.tail = Tail()
    source = Crops(
        [Pair(picture(0, 6, 6), picture(1, 12, 12))],
        [],
        drawn_share=0.0,
        patch=PATCH,
        rgb_range=255.0,
        device=CPU,
    )
    step = Step(network, source, batch=3, clip=10.0, compiled=False, device=CPU)
    step.learning_rate.fill_(1e-3)
    step(torch.zeros((4, 3), dtype=torch.int64), Phase(half=False, frozen=False))
    assert step.loss.item() < 255 * 10
    for name, value in network.state_dict().items():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("drawn_share", [0.0, 1.0])
def test_drawn_crops_teach_only_where_the_network_is_worse_than_bicubic(drawn_share: float) -> None:
    class Bicubic(nn.Module):
        def __init__(self, dimming: float) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1 - dimming))

        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            options: dict[str, Any] = {"mode": "bicubic", "antialias": True}
            enlarged = nn.functional.interpolate(lr, scale_factor=2, **options)
            return self.gain * enlarged.clamp(0, 255)

    def loss(dimming: float) -> float:
        network = random_network("edsr", 2, blocks=1, features=4).train()
        network.tail = Bicubic(dimming)
        network.features = lambda lr: lr  # type: ignore[method-assign]
        network.reconstruct = network.tail  # type: ignore[method-assign]
        source = crops(drawn_share)
        step = Step(network, source, batch=8, clip=10.0, compiled=False, device=CPU)
        step(source.choose(8, torch.Generator().manual_seed(0)), Phase(half=False, frozen=False))
        return step.loss.item()

    as_bicubic, dimmed, dark = loss(0.0), loss(0.9), loss(1.0)
    assert (as_bicubic == 0) == (drawn_share == 1)
    assert as_bicubic < dimmed < dark
    # A drawn crop that is far off counts as one that is a little off: few levels of 255.
    assert (dark < 40) == (drawn_share == 1)
