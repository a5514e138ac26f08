"""RDN with AdaDM: residual dense blocks, fused at the end, and a linear tail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from adadm.export.networks.blocks import (
    Modulator,
    convolution,
    normalization,
    read_head_features,
    read_norm_groups,
    read_upscale,
    upsampling_stages,
)
from adadm.export.networks.network import Network, StateDict, Undetectable
from adadm.runtime.errors import CheckpointError


class DenseLayer(nn.Module):
    """A convolution whose features are appended to its input."""

    def __init__(self, in_features: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(convolution(in_features, growth), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_features, H, W) to (N, in_features + growth, H, W)."""
        return torch.cat((x, self.conv(x)), dim=1)


class ResidualDenseBlock(nn.Module):
    """AdaDM's residual dense block: every layer reads its one normalization through Concat."""

    def __init__(self, features: int, layers: int, growth: int, norm_groups: int = 0) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *[DenseLayer(features + index * growth, growth) for index in range(layers)]
        )
        self.LFF = convolution(features + layers * growth, features, kernel_size=1)
        self.phi = Modulator()
        self.norm = normalization(features, norm_groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, features, H, W) to the same shape."""
        modulated: torch.Tensor = self.phi(x, self.LFF(self.convs(self.norm(x))))
        return modulated


class RDN(Network):
    """RDN (Zhang et al., 2018) with AdaDM's residual dense blocks.

    Published sizes, all with 64 features: A is 20 blocks of 6 layers, growth 32; B is 16 blocks of
    8 layers, growth 64. rgb_range 255.

    Args:
        blocks: number of blocks (D in the paper).
        layers: convolutions in each block (C).
        growth: channels that each convolution adds (G).
        features: channels of the trunk (G0).
    """

    architecture: ClassVar[str] = "rdn"
    template: ClassVar[Mapping[str, Undetectable]] = {"rgb_range": 255.0, "norm_groups": int}

    def __init__(
        self,
        upscale: int,
        blocks: int = 16,
        layers: int = 8,
        growth: int = 64,
        features: int = 64,
        *,
        rgb_range: float = 255.0,
        norm_groups: int = 0,
    ) -> None:
        super().__init__()
        self.upscale, self.rgb_range = upscale, rgb_range
        self.SFENet1 = convolution(3, features)
        self.SFENet2 = convolution(features, features)
        self.RDBs = nn.ModuleList(
            [ResidualDenseBlock(features, layers, growth, norm_groups) for _ in range(blocks)]
        )
        self.GFF = nn.Sequential(
            convolution(blocks * features, features, kernel_size=1), convolution(features, features)
        )
        self.UPNet = nn.Sequential(
            *upsampling_stages(upscale, features, growth), convolution(growth, 3)
        )

    @classmethod
    def detects(cls, state: StateDict) -> bool:
        return {"SFENet1.weight", "UPNet.0.weight", "RDBs.0.convs.0.conv.0.weight"} <= state.keys()

    @classmethod
    def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:
        blocks = {m[1] for key in state if (m := re.match(r"RDBs\.(\d+)\.", key))}
        layers = {m[1] for key in state if (m := re.match(r"RDBs\.0\.convs\.(\d+)\.", key))}
        tail = sorted(key for key in state if re.fullmatch(r"UPNet\.\d+\.weight", key))
        first = state["RDBs.0.convs.0.conv.0.weight"]
        if first.ndim != 4:
            raise CheckpointError(
                "RDBs.0.convs.0.conv.0.weight: expected shape (growth, features, 3, 3), got "
                f"{tuple(first.shape)}"
            )
        return {
            "upscale": read_upscale([state[key] for key in tail]),
            "blocks": len(blocks),
            "layers": len(layers),
            "growth": first.shape[0],
            "features": read_head_features(state, "SFENet1.weight"),
            **read_norm_groups(state),
        }

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.SFENet1(lr)
        x = self.SFENet2(shallow)
        outputs = []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        features: torch.Tensor = self.GFF(torch.cat(outputs, dim=1)) + shallow
        return features

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.UPNet(features)
        return sr
