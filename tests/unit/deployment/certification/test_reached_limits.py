"""The effect of limits on a photograph, against the network without them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from _support.exports import write_with_limits
from _support.networks import random_network
from adadm.deployment.certification.baseline import load_baseline
from adadm.deployment.certification.criteria import check_limits
from adadm.deployment.certification.observations import PhotographResult
from adadm.deployment.certification.reached_limits import LimitEffect, Modulation, Unlimited
from adadm.export import Options
from adadm.export.limits import limits_of, trunk_deviations, without_limits
from adadm.export.networks import Network
from adadm.export.networks.network import named_modulators
from adadm.export.proof.pytorch import run_network, run_with_factors
from adadm.runtime.images.arrays import Batch
from adadm.runtime.models.onnx_reader import read_onnx

WHITE = 255.0


def calm() -> Batch:
    return np.random.default_rng(0).uniform(100, 140, (1, 3, 24, 28)).astype(np.float32)


def stark() -> Batch:
    return np.random.default_rng(1).choice([0, WHITE], (1, 3, 24, 28)).astype(np.float32)


def limited(factor: float) -> Network:
    """A network with limits so many times above the deviations of a calm image."""
    network = random_network("edsr", 2)  # its own: other tests leave hooks on shared ones
    stds = trunk_deviations(network, torch.from_numpy(calm()))
    for name, module in named_modulators(network).items():
        module.limit = float(np.float32(factor * stds[name]))
    return network


def effect_of(unlimited: Unlimited, network: Network, lr: Batch) -> LimitEffect:
    return unlimited.effect(lr, run_with_factors(network, lr), WHITE)


def test_below_the_limits_nothing_runs_and_nothing_changes() -> None:
    network = limited(1.01)

    def refused(lr: Batch) -> tuple[Batch, list[Batch]]:
        raise AssertionError("the network without limits ran")

    unlimited = Unlimited(refused, Unlimited.of_network(network).modulations)
    assert effect_of(unlimited, network, calm()) == LimitEffect()
    np.testing.assert_array_equal(
        run_network(network, calm()), run_network(without_limits(network), calm())
    )


@pytest.mark.parametrize("lr", [calm(), stark()], ids=["calm", "stark"])
def test_beyond_the_limits_blocks_and_levels_are_those_of_two_runs(lr: Batch) -> None:
    network = limited(0.99 if lr.std() < 20 else 1.01)
    free = without_limits(network)
    stds = trunk_deviations(free, torch.from_numpy(lr))
    expected = {
        name.removesuffix(".phi"): stds[name] / limit
        for name, limit in limits_of(network).items()
        if stds[name] > limit
    }
    effect = effect_of(Unlimited.of_network(network), network, lr)
    assert effect.beyond == pytest.approx(expected, rel=1e-4) and len(expected) > 1
    shown = [np.clip(run_network(each, lr), 0, WHITE) for each in (network, free)]
    assert effect.largest_error == pytest.approx(np.abs(shown[0] - shown[1]).max(), rel=1e-3)
    assert effect.largest_error > 0


@pytest.mark.parametrize("modulator", ["function", "inline"])
def test_a_graph_tells_what_its_network_does(tmp_path: Path, modulator: str) -> None:
    """An exported model as the reference: limits are taken out of its graph."""
    network = limited(0.99)
    path = write_with_limits(tmp_path / "limited.onnx", network, Options(modulator=modulator))  # type: ignore[arg-type]
    reference = load_baseline(path)
    assert reference.unlimited is not None
    for lr in (calm(), stark()):
        (found,) = (
            reference.unlimited.effect(lr, stage.run(lr), WHITE) for stage in reference.stages
        )
        expected = effect_of(Unlimited.of_network(network), network, lr)
        assert found.beyond == pytest.approx(expected.beyond, rel=1e-3)
        assert found.largest_error == pytest.approx(expected.largest_error, rel=0.01)


def test_a_graph_with_limits_in_another_form_is_not_compared(tmp_path: Path) -> None:
    path = write_with_limits(tmp_path / "limited.onnx", without_limits(limited(0.99)))
    assert read_onnx(path).metadata.limits
    assert load_baseline(path).unlimited is None


@pytest.mark.parametrize("weight", [0.0, 0.9, -0.5])
def test_a_factor_tells_the_std(weight: float) -> None:
    modulation = Modulation("body.0", weight, 0.3, 12.0)
    at_limit, above = (math.exp(weight * math.log(std) + 0.3) for std in (12.0, 15.0))
    assert modulation.is_reached(at_limit) == bool(weight)
    if weight:
        assert not modulation.is_reached(above)
        assert modulation.excess(above) == pytest.approx(1.25)
        assert modulation.excess(math.nan) == modulation.excess(math.inf) == math.inf
    assert not Modulation("body.0", 0.9, 0.3, math.inf).is_reached(above)


def test_a_photograph_beyond_a_limit_is_a_failed_check() -> None:
    def result(name: str, effect: LimitEffect | None) -> PhotographResult:
        return PhotographResult(name, 60.0, None, None, None, 1.0, effect)

    checks = check_limits(
        [
            result("a.png", LimitEffect()),
            result("b.png", LimitEffect({"body.1": 1.2, "body.2": 1.1}, 3.25)),
            result("c.png", None),
            result("d.png", LimitEffect({"body.0": math.inf}, 255.0)),
        ]
    )
    assert [(c.name, c.figure, c.passed) for c in checks] == [
        ("b.png", 1.2, False),
        ("d.png", math.inf, False),
    ]
    assert str(checks[0]).startswith(
        "b.png is 1.2 x limit (body.1 and 1 more), required at "
        "most 1: without limits, up to 3.25 levels differ; export with a larger --limit"
    )
