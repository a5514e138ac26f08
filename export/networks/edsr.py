"""EDSR with AdaDM: residual blocks at low resolution, one skip over them all, a linear tail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from adadm.export.networks.blocks import (
    ResidualBlock,
    convolution,
    linear_tail,
    read_head_features,
    read_linear_tail,
    read_norm_groups,
)
from adadm.export.networks.network import Network, StateDict, Undetectable


class EDSR(Network):
    """EDSR (Lim et al., 2017) with AdaDM's residual blocks and no mean shift.

    Published size: 32 blocks, 256 features, res_scale 0.1, rgb_range 255.

    Attributes:
        block: class of the blocks in the body.
    """

    architecture: ClassVar[str] = "edsr"
    template: ClassVar[Mapping[str, Undetectable]] = {
        "res_scale": 0.1,
        "rgb_range": 255.0,
        "norm_groups": int,
    }

    block: ClassVar[type[ResidualBlock]] = ResidualBlock

    def __init__(
        self,
        upscale: int,
        blocks: int = 32,
        features: int = 256,
        *,
        res_scale: float = 0.1,
        rgb_range: float = 255.0,
        norm_groups: int = 0,
    ) -> None:
        super().__init__()
        self.upscale, self.rgb_range = upscale, rgb_range
        self.head = nn.Sequential(convolution(3, features))
        residual_blocks = [self.block(features, res_scale, norm_groups) for _ in range(blocks)]
        self.body = nn.Sequential(*residual_blocks, convolution(features, features))
        self.tail = linear_tail(upscale, features)

    @classmethod
    def detects(cls, state: StateDict) -> bool:
        return {"head.0.weight", "tail.1.weight"} <= state.keys() and any(
            re.match(r"body\.\d+\.", key) for key in state
        )

    @classmethod
    def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:
        found = (re.match(r"body\.(\d{1,9})\.", key) for key in state)
        last = max((int(match[1]) for match in found if match), default=0)
        return {
            "upscale": read_linear_tail(state),
            "blocks": min(last, len(state)),  # a key may have any number
            "features": read_head_features(state, "head.0.weight"),
            **read_norm_groups(state),
        }

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.head(lr)
        features: torch.Tensor = x + self.body(x)
        return features

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.tail(features)
        return sr
