"""The graph that is made without torch.onnx is folded as the one that torch.onnx makes."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from _support.networks import CUSTOM, PUBLISHED, random_network
from _support.scripts import ROOT
from adadm.deployment.inspection.sketch import sketch
from adadm.export.checkpoint import load_checkpoint, network_class
from adadm.export.networks import Network
from adadm.export.networks.blocks import ResidualBlock
from adadm.export.networks.network import StateDict
from adadm.export.passes import Decision, fold_batch_norm
from adadm.export.tracing import trace

CHECKPOINTS = ROOT / "export" / "checkpoints"
FEATURES = 6


class Stack(nn.Module):
    """One block that runs twice, its weights shared, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, FEATURES, 3, padding=1)
        self.block = ResidualBlock(FEATURES, 0.5)
        self.last = nn.Conv2d(FEATURES, 12, 3, padding=1)
        self.up = nn.PixelShuffle(2)

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.block(self.block(self.head(lr)))
        return features

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.up(self.last(self.features(lr)))
        return sr


class Reflecting(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, FEATURES, 3, padding=1, padding_mode="reflect")


class PaddedByName(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, FEATURES, 3, padding="same")


class Negated(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


class Overridden(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.head = Negated(3, FEATURES, 3, padding=1)


class WithoutAffine(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.block.norm1 = nn.BatchNorm2d(FEATURES, affine=False)


class WithoutStatistics(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.block.norm1 = nn.BatchNorm2d(FEATURES, track_running_stats=False)


class GroupNormalized(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.block = ResidualBlock(FEATURES, 0.5, norm_groups=2)


class AddingANumber(Stack):
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        return super().features(lr) + 0.5


class Broadcasting(Stack):
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        return super().features(lr) + lr[:, :1]


class MultiplyingTensors(Stack):
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        x = super().features(lr)
        return x * x


class CallingMethods(Stack):
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        return super().features(lr).relu()


class Decided(Stack):
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        return super().features(lr if lr.shape[2] > 4 else 2 * lr)


class InRows(Stack):
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        x = super().features(lr)
        return torch.cat((x, x), dim=2)


class Adopted(Network):
    """Any module as a network."""

    architecture: ClassVar[str] = "adopted"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(upscale=2, rgb_range=255.0)
        self.module = module

    @property
    def root(self) -> nn.Module:
        return self.module

    @classmethod
    def detects(cls, state: StateDict) -> bool:
        return True

    @classmethod
    def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:
        return {}

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.module(lr)
        return features

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        return features


def forms(decisions: list[Decision]) -> list[tuple[str, str | None, bool]]:
    return [(found.node, found.result, bool(found.reason)) for found in decisions]


def assert_folded_alike(network: Network) -> list[Decision]:
    model = sketch(network)
    assert model is not None
    found, expected = fold_batch_norm(model), fold_batch_norm(trace(network))
    assert forms(found) == forms(expected)
    return found


@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.glob("*.safetensors")))
def test_bundled_networks(name: str) -> None:
    assert assert_folded_alike(load_checkpoint(CHECKPOINTS / name).network)


@pytest.mark.parametrize(("architecture", "upscale"), [("edsr", 4), ("nlsn", 2), ("rdn", 3)])
def test_gammas_of_both_signs_and_of_zero(architecture: str, upscale: int) -> None:
    network = random_network(architecture, upscale, seed=1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    on_the_trunk = norms[0] if architecture == "rdn" else norms[2]  # past NLSN's first attention
    with torch.no_grad():
        on_the_trunk.weight[1] = 0
        norms[-1].weight[0] = 1e-6
    reasons = [found.reason for found in assert_folded_alike(network) if found.result is None]
    assert any("gamma is 0 in channel 1" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["edsr", "rdn A", "nlsn"])
def test_published_sizes(name: str) -> None:
    architecture, size = PUBLISHED[name]
    network = network_class(architecture)(upscale=3, **size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.3)
    model = sketch(network)
    assert model is not None
    kept = [found.node for found in fold_batch_norm(model) if found.result is None]
    after_attention = [f"body.{index}.norm1" for index in (1, 10, 19, 28)]
    assert kept == (after_attention if name == "nlsn" else [])


def test_a_block_that_runs_twice() -> None:
    torch.manual_seed(0)
    assert len(assert_folded_alike(Adopted(Stack()).eval())) == 4


@pytest.mark.parametrize(
    "module",
    [
        *(Reflecting, PaddedByName, Overridden, WithoutAffine, WithoutStatistics, GroupNormalized),
        *(AddingANumber, Broadcasting, MultiplyingTensors, CallingMethods, Decided, InRows),
    ],
)
def test_what_it_does_not_know_it_leaves_to_torch_onnx(module: type[Stack]) -> None:
    assert sketch(Adopted(module()).eval()) is None


@pytest.mark.parametrize(("name", "upscale"), CUSTOM.items())
def test_networks_of_a_user(name: str, upscale: int) -> None:
    assert sketch(random_network(name, upscale)) is None
