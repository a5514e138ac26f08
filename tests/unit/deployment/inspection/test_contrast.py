"""How far the contrast of photographs can grow, on networks whose bound is known."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from torch import nn

from adadm.calibration.source_network import SourceNetwork
from adadm.deployment.inspection.contact_sheet import draw_contact_sheet
from adadm.deployment.inspection.contrast import GROWTHS, Contrast, Endurance, measure_contrast
from adadm.deployment.inspection.findings import find
from adadm.deployment.inspection.inspected_file import InspectedFile, read_inspected_file
from adadm.deployment.inspection.rules import DIVERGING, LITTLE_HEADROOM
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.networks.network import StateDict
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.images.arrays import reduce
from adadm.runtime.models.bundled import bundled_path

UPSCALE, SIDE = 2, 24


class Fragile(Network):
    """Repeats pixels; adds a checker as strong as the image where its factor exceeds a bound."""

    architecture = "fragile"
    template: ClassVar[dict[str, float]] = {}

    def __init__(self, bound: float, limit: float | None) -> None:
        super().__init__()
        self.upscale, self.rgb_range, self.bound = UPSCALE, 255.0, bound
        self.phi = Modulator()
        self.phi.limit = limit
        self.last = nn.Upsample(scale_factor=UPSCALE, mode="nearest")

    @classmethod
    def detects(cls, state: StateDict) -> bool:
        return False

    @classmethod
    def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:
        return {}

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        side = torch.arange(SIDE)
        checker = (side[:, None] + side) // 2 % 2 * 2.0 - 1
        shifted: torch.Tensor = lr + checker * lr.std() * (self.phi.factor(lr) > self.bound)
        return shifted

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.last(features)
        return sr


@functools.cache
def bundled() -> InspectedFile:
    return read_inspected_file(bundled_path("x2"))


def of(bound: float, limit: float | None = None) -> Contrast:
    """The contrast that a network bears whose factor is the std of its input."""
    source = SourceNetwork(
        ir.load(bundled().path), bundled().metadata, Fragile(bound, limit).eval(), None, ""
    )
    contrast = measure_contrast(dataclasses.replace(bundled(), source=source))
    assert contrast is not None
    return contrast


@functools.cache
def stds() -> dict[str, list[float]]:
    """Of each photograph at each growth, in closed form."""
    found = {}
    for name, image in photographs().items():
        size = SIDE * UPSCALE
        top, left = ((length - size) // 2 for length in image.shape[:2])
        lr = reduce(image[top : top + size, left : left + size], UPSCALE).astype(np.float64)
        mean = lr.mean(axis=(0, 1))
        between = lr.shape[0] * lr.shape[1] * ((mean - mean.mean()) ** 2).sum()
        within = ((lr - mean) ** 2).sum()
        found[name] = [math.sqrt((between + g**2 * within) / (lr.size - 1)) for g in GROWTHS]
    return found


@pytest.mark.parametrize("bound", [150.0, 230.0, 400.0])
def test_the_headroom_is_that_of_the_photograph_that_bears_least(bound: float) -> None:
    held = {name: int(np.sum(np.array(grown) <= bound)) - 1 for name, grown in stds().items()}
    weakest = min(held, key=held.__getitem__)
    assert 0 < held[weakest] < len(GROWTHS) - 1
    found = of(bound)
    assert found.deployed.headroom == GROWTHS[held[weakest]]
    assert held[found.deployed.photograph or ""] == held[weakest]
    assert found.unlimited is None


def test_a_limit_gives_headroom_and_is_put_back() -> None:
    found = of(bound=200.0, limit=180.0)
    assert found.deployed.headroom == math.inf and found.deployed.photograph is None
    assert found.unlimited is not None and found.unlimited.headroom == of(200.0).deployed.headroom
    assert found.deployed.lost == found.unlimited.lost  # no picture within 0..255 reaches it


def test_drawn_pictures_beyond_the_bound_are_lost() -> None:
    found = of(bound=100.0)
    beyond = {name for name, lr in found.pictures.items() if lr.std(ddof=1) > 100}
    assert 5 <= len(beyond) < len(found.pictures)
    assert set(found.deployed.lost) >= beyond
    assert list(found.deployed.lost.values()) == sorted(found.deployed.lost.values())


def test_a_network_that_resembles_nothing_has_no_headroom() -> None:
    assert of(bound=0.0).deployed.headroom == 0


def test_a_file_of_one_size_is_not_measured() -> None:
    assert measure_contrast(dataclasses.replace(bundled(), static=(1, 20, 30))) is None


@pytest.mark.parametrize(
    ("headroom", "margin", "rules"),
    [
        (2.0, -0.9, []),
        (1.83, -0.9, [LITTLE_HEADROOM]),
        (None, -1.1, [DIVERGING]),
        (0.0, -20.0, [LITTLE_HEADROOM, DIVERGING]),
    ],
)
def test_findings_are_of_the_network_as_it_is(
    headroom: float | None, margin: float, rules: list[object]
) -> None:
    margins = {"bars_12": margin, "checker_8": 3.0}
    lost = Endurance(0.0, "coffee", {"bars_12": -30.0}, {})
    contrast = Contrast({}, Endurance(headroom, "coffee", margins, {}), lost)
    found = find(bundled(), contrast=contrast)
    assert [finding.rule for finding in found] == rules
    places = {LITTLE_HEADROOM: "photograph coffee", DIVERGING: "bars_12"}
    assert all(finding.place == places[finding.rule] for finding in found)
    assert all(finding.figure in (headroom, margin) for finding in found)


def test_the_sheet_shows_the_worst_first(tmp_path: Path) -> None:
    """Darkest where the picture is worst; the best are left out."""
    names = [f"picture_{number}" for number in range(8)]
    pictures = {name: np.full((4, 4, 3), 200, np.uint8) for name in names}
    results = {name: np.full((8, 8, 3), 10 * n, np.uint8) for n, name in enumerate(names)}
    margins = {name: n - 4.0 for n, name in enumerate(names)}
    form = Endurance(1.0, None, margins, results)
    draw_contact_sheet(Contrast(pictures, form, None), tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    last = pixels[-pixels.shape[0] // 6]  # a line through the results
    shown = [int(level) for level in dict.fromkeys(last.tolist()) if level < 200]
    assert [level for level in range(0, 60, 10) if level in shown] == [0, 10, 20, 30, 40, 50]
    assert not {60, 70} & set(shown)
