"""Interface of a super-resolution network."""

from __future__ import annotations

import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from adadm.export.networks.blocks import Modulator

StateDict = Mapping[str, torch.Tensor]

Undetectable = float | type[int] | type[float]
"""Published value of a hyper-parameter, or its type if there is none."""


class Network(nn.Module, ABC):
    """A network from `lr` (N, 3, H, W) to `sr` (N, 3, upscale*H, upscale*W), RGB, 0..rgb_range.

    Attributes:
        architecture: name for `--arch`.
        template: hyper-parameters that a state dict does not hold, with the values of the
            published training template; a loader that falls back on them is guessing. An integer
            stays an integer. A type marks a value that must be given.
        choices: hyper-parameters that training does not fix, with our values.
        smallest_area: least H*W of an input, px.
        hyperparameters: keyword arguments of `__init__`, recorded by it, that build this network
            again.
        upscale, rgb_range: set by each network; rgb_range is the value of white.

    Common hyper-parameters: upscale, 2, 3 or 4; blocks, the number of residual blocks; features,
    the channels of the trunk; res_scale, the constant factor of every residual branch; norm_groups,
    0 for batch normalization, else the groups of group normalization.
    """

    architecture: ClassVar[str]
    template: ClassVar[Mapping[str, Undetectable]]
    choices: ClassVar[Mapping[str, float]] = {}
    smallest_area: int = 1
    hyperparameters: dict[str, float]
    upscale: int
    rgb_range: float

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        build = cls.__init__

        @functools.wraps(build)
        def build_recorded(self: Network, *args: Any, **kwargs: Any) -> None:
            if "hyperparameters" not in vars(self):  # else a subclass has recorded its own
                bound = inspect.signature(build).bind(self, *args, **kwargs)
                bound.apply_defaults()
                _, *arguments = bound.arguments.items()
                self.hyperparameters = dict(arguments)
            build(self, *args, **kwargs)

        cls.__init__ = build_recorded  # type: ignore[assignment, method-assign]

    @property
    def root(self) -> nn.Module:
        """Module whose names and keys appear in checkpoints and graphs."""
        return self

    @property
    def smallest_side(self) -> int:
        """Side of the smallest square input, px."""
        return math.isqrt(self.smallest_area - 1) + 1

    @property
    def example_side(self) -> int:
        """Side of an input to trace, px: odd, and large enough for every layer to see a border."""
        return self.smallest_side * 2 + 7

    @classmethod
    @abstractmethod
    def detects(cls, state: StateDict) -> bool:
        """True if a state dict looks like this network, even if it is incomplete."""

    @classmethod
    @abstractmethod
    def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:
        """Read keyword arguments from the shapes in a detected state dict.

        Raises:
            CheckpointError: the shapes are not those of this network.
        """

    @abstractmethod
    def features(self, lr: torch.Tensor) -> torch.Tensor:
        """Run the trunk: `lr` to features (N, C, H, W) at low resolution."""

    @abstractmethod
    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        """Run the tail: features to `sr`."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """`lr` (N, 3, H, W) to `sr` (N, 3, upscale*H, upscale*W)."""
        return self.reconstruct(self.features(lr))


def named_modulators(network: Network) -> dict[str, Modulator]:
    """Modulators of a network by module name, in the order of definition."""
    return {n: m for n, m in network.root.named_modules() if isinstance(m, Modulator)}
