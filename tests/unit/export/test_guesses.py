"""Hyper-parameters that no tensor shows, if they are wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.networks import random_network
from _support.slow import slow_unless
from adadm.export import load_checkpoint
from adadm.export.guesses import LEAST_GAIN_DB, TriedValues, try_usual_values, warnings_of
from adadm.export.networks import RDN
from adadm.export.proof.accuracy import Accuracy, measure_accuracy

BUNDLED = Path(__file__).resolve().parents[3] / "export" / "checkpoints"

# Bundled network, values that are given, and the flags that the warning names.
ROWS = [
    ("edsr_adadm_x2", {}, None),
    ("edsr_adadm_x2", {"rgb_range": 1.0}, "--rgb-range 255"),
    ("edsr_adadm_x2", {"rgb_range": 1.0, "res_scale": 1.0}, "--rgb-range 255 --res-scale 0.1"),
    ("edsr_adadm_x2", {"res_scale": 0.2}, "--res-scale 0.1"),
    ("edsr_adadm_x2", {"rgb_range": 100.0}, None),  # 0.2 dB: nobody uses it, but it does no harm
    ("edsr_adadm_x4", {"rgb_range": 1.0}, "--rgb-range 255"),
    ("rdn_adadm_x2", {"rgb_range": 1.0}, "--rgb-range 255"),
    ("nlsn_adadm_x2", {"res_scale": 1.0}, "--res-scale 0.1"),
]


@pytest.mark.parametrize(
    ("name", "given", "flags"), slow_unless(lambda name, *_: name == "rdn_adadm_x2", ROWS)
)
def test_a_wrong_value_is_found_by_the_photographs(
    name: str, given: dict[str, Any], flags: str | None
) -> None:
    network = load_checkpoint(BUNDLED / f"{name}.safetensors", **given).network
    tried = try_usual_values(network)
    assert given.items() <= tried[0].values.items()
    warnings = warnings_of([], tried, {})
    assert len(warnings) == (flags is not None)
    assert all(warning.endswith(f"If training used it, give {flags}") for warning in warnings)


def test_parts_of_different_networks_are_worse_than_bicubic(tmp_path: Path) -> None:
    """The trunk of x4 with the tail of x2: the shapes agree."""
    trunk, tail = (
        load_checkpoint(BUNDLED / f"edsr_adadm_x{r}.safetensors").network.state_dict()
        for r in (4, 2)
    )
    state = {k: v for k, v in trunk.items() if not k.startswith("tail")}
    state |= {k: v for k, v in tail.items() if k.startswith("tail")}
    torch.save(state, tmp_path / "mixed.pt")
    checkpoint = load_checkpoint(tmp_path / "mixed.pt")
    accuracy = measure_accuracy(checkpoint.network)
    (warning,) = warnings_of(accuracy, [], checkpoint.guesses)
    assert re.search("worse than bicubic interpolation on .*chelsea", warning)
    assert "guessed: res_scale 0.1, rgb_range 255" in warning
    assert "made of parts of different networks" in warning


@pytest.mark.parametrize(
    ("network_db", "named"),
    [
        ((31, 31), ""),
        ((31, 29), "b"),
        ((29, 31), "a"),
        ((50, 29.99), "b"),
        ((float("nan"), 31), "a"),
    ],
)
def test_one_photograph_worse_than_bicubic_is_named(
    network_db: tuple[float, float], named: str
) -> None:
    accuracy = [Accuracy(n, 30.0, db) for n, db in zip("ab", network_db, strict=True)]
    warnings = warnings_of(accuracy, [], {})
    assert len(warnings) == len(named)
    assert all(f"interpolation on {named} (nothing was guessed)" in each for each in warnings)


@pytest.mark.parametrize(("gain", "count"), [(0.9, 0), (1.0, 1), (-5, 0)])
def test_a_warning_needs_a_gain(gain: float, count: int) -> None:
    tried = [TriedValues({"rgb_range": 1.0}, 30.0)]
    tried.append(TriedValues({"rgb_range": 255.0}, 30.0 + gain * LEAST_GAIN_DB))
    assert len(warnings_of([], tried, {})) == count


def test_what_the_tensors_show_is_not_tried() -> None:
    network = random_network("nlsn", 2)
    assert {tuple(each.values) for each in try_usual_values(network)} == {("res_scale",)}
    own = random_network("_support.custom_networks:RCANLike", 2)
    assert [each.values for each in try_usual_values(own)] == [
        {"rgb_range": 255.0},
        {"rgb_range": 1.0},
    ]


class OnlyUnit(RDN):
    """It allows one range alone."""

    def __init__(self, upscale: int = 2, rgb_range: float = 1.0) -> None:
        if rgb_range != 1:
            raise ValueError("rgb_range must be 1")
        super().__init__(upscale, 1, 1, 4, 4, rgb_range=rgb_range)


def test_a_network_that_allows_no_other_value_is_left_alone() -> None:
    assert [each.values for each in try_usual_values(OnlyUnit().eval())] == [{"rgb_range": 1.0}]
