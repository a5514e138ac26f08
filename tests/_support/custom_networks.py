"""Networks that are not ours in shape, as a user writes them: AdaDM around plain branches."""

from __future__ import annotations

import torch
from torch import nn

from adadm.export import AdaDM

FEATURES = 10
SLOPE = 0.25  # ONNX keeps it in float32, which this is


def conv(inputs: int, outputs: int, kernel_size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)


class ChannelAttention(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Sequential(
            conv(features, 3, 1), nn.ReLU(), conv(3, features, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = x * self.squeeze(self.pool(x))
        return attended


class Group(nn.Module):
    """RCAN's residual group: blocks, a convolution, a skip."""

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *[AdaDM(self.branch(features)) for _ in range(blocks)], conv(features, features)
        )

    def branch(self, features: int) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(features),
            conv(features, features),
            nn.ReLU(),
            nn.BatchNorm2d(features),
            conv(features, features),
            ChannelAttention(features),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped: torch.Tensor = x + self.body(x)
        return grouped


class RCANLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, FEATURES)
        self.groups = nn.Sequential(Group(FEATURES, 2), Group(FEATURES, 2))
        self.upscale = nn.Sequential(conv(FEATURES, 4 * 3), nn.PixelShuffle(2))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.head(lr / 255 - 0.4)
        sr: torch.Tensor = self.upscale(self.groups(shallow) + shallow) * 255
        return sr


class DenseBranch(nn.Module):
    """ESRGAN's dense block, after a normalization that every layer reads."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(features)
        self.convs = nn.ModuleList([conv(features + i * growth, growth) for i in range(3)])
        self.fuse = conv(features + 3 * growth, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        for layer in self.convs:
            x = torch.cat((x, nn.functional.leaky_relu(layer(x), SLOPE)), dim=1)
        fused: torch.Tensor = self.fuse(x) * 0.2
        return fused


class RRDBLike(nn.Module):
    """Dense blocks inside a residual, inside a residual: a modulator for each."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, FEATURES)
        inner = [
            nn.Sequential(*[AdaDM(DenseBranch(FEATURES, 5)) for _ in range(2)]) for _ in range(2)
        ]
        self.blocks = nn.Sequential(*[AdaDM(branch) for branch in inner])
        self.after = conv(FEATURES, FEATURES)
        self.up1, self.up2 = conv(FEATURES, FEATURES), conv(FEATURES, FEATURES)
        self.last = conv(FEATURES, 3)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.head(lr)
        x = shallow + self.after(self.blocks(shallow))
        for layer in (self.up1, self.up2):
            enlarged = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = nn.functional.leaky_relu(layer(enlarged), SLOPE)
        sr: torch.Tensor = self.last(x)
        return sr


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of each pixel."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        nn.init.uniform_(self.norm.weight, -1.5, 1.5)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed


class LayerNormed(nn.Sequential):
    def __init__(self) -> None:
        branches = [
            AdaDM(nn.Sequential(ChannelNorm(FEATURES), conv(FEATURES, FEATURES), nn.GELU()))
            for _ in range(2)
        ]
        super().__init__(conv(3, FEATURES), *branches, conv(FEATURES, 12), nn.PixelShuffle(2))


class NoSuperResolution(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Windowed(nn.Module):
    """Works on multiples of 8 only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 12)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if lr.shape[2] % 8 or lr.shape[3] % 8:
            raise ValueError("height and width must be multiples of 8")
        return nn.functional.pixel_shuffle(self.conv(lr), 2)


not_callable = 3


def needs_an_argument(features: int) -> nn.Module:
    return conv(features, features)


def returns_a_number() -> int:
    return 3
