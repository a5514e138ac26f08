"""Building blocks of the AdaDM networks, with the published state-dict keys."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from adadm.export.operators import DOMAIN, DOMAIN_VERSION
from adadm.export.operators.modulator import signature
from adadm.runtime.errors import CheckpointError


def convolution(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width (zero padding)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def normalization(features: int, groups: int) -> nn.Module:
    """Batch normalization; group normalization if `groups` is above 0 (1: the whole image)."""
    return nn.GroupNorm(groups, features) if groups else nn.BatchNorm2d(features)


class Modulator(nn.Conv2d):
    """AdaDM's adaptive deviation modulator: `x + r * exp(w * ln(std(x)) + b)`.

    The published code keeps `w` and `b` in a 1x1 convolution on one channel named `phi`. This
    module is such a convolution, so it has the same keys: `phi.weight` (1, 1, 1, 1), `phi.bias`
    (1,). `std` is over (C, H, W) of each image, unbiased. Source: Liu, Tang, Wu, "AdaDM: Enabling
    Normalization for Image Super-Resolution", 2021, section 3.

    Under `torch.onnx.export` it becomes one node, `AdaDMModulate` or `AdaDMModulateLimited`.

    Attributes:
        limit: largest std that the factor follows, exact in float32; None for no limit, as
            published. Above the std of training, a network without limits may run away
            (docs/explanation/contrast.md).
    """

    def __init__(self) -> None:
        super().__init__(1, 1, kernel_size=1)
        assert self.bias is not None  # nn.Conv2d types it as optional
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.limit: float | None = None
        self._constants: dict[str, Any] | None = None

    def freeze(self) -> None:
        """Store `w` and `b` as numbers: inside an export the parameters have no values."""
        assert self.bias is not None
        self._constants = {"weight": self.weight.item(), "bias": self.bias.item()}
        if self.limit is not None:
            self._constants["limit"] = self.limit

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """Modulation factor (N, 1, 1, 1) for the trunk `x` (N, C, H, W)."""
        std = x.std(dim=(1, 2, 3), keepdim=True)
        if self.limit is not None:
            std = std.clamp(max=self.limit)
        return torch.exp(super().forward(torch.log(std)))

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Add the modulated `residual` to the trunk `x`; both (N, C, H, W)."""
        if torch.onnx.is_in_onnx_export():
            if self._constants is None:
                raise RuntimeError("call freeze() before torch.onnx.export")
            return torch.onnx.ops.symbolic(
                f"{DOMAIN}::{signature(limited=self.limit is not None).name}",
                (x, residual),
                attrs=self._constants,
                dtype=x.dtype,
                shape=x.shape,
                version=DOMAIN_VERSION,
            )
        return x + residual * self.factor(x)


class AdaDM(nn.Module):
    """Any residual branch with AdaDM: `x + body(x) * exp(w * ln(std(x)) + b)`.

    Args:
        body: the branch with its normalization; (N, C, H, W) to the same shape.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.phi = Modulator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        modulated: torch.Tensor = self.phi(x, self.body(x))
        return modulated


class ResidualBlock(nn.Module):
    """AdaDM's residual block in EDSR and NLSN, with normalization before each convolution."""

    def __init__(self, features: int, res_scale: float, norm_groups: int = 0) -> None:
        super().__init__()
        self.conv1 = convolution(features, features)
        self.conv2 = convolution(features, features)
        self.phi = Modulator()
        self.norm1 = normalization(features, norm_groups)
        self.norm2 = normalization(features, norm_groups)
        self.res_scale = res_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, features, H, W) to the same shape."""
        hidden = torch.relu(self.conv1(self.norm1(x)))
        residual = self.conv2(self.norm2(hidden)) * self.res_scale
        modulated: torch.Tensor = self.phi(x, residual)
        return modulated


def upsampling_stages(upscale: int, in_features: int, features: int) -> list[nn.Module]:
    """Linear upsampling: convolution and PixelShuffle, once for x2 and x3, twice for x4."""
    step, repeats = (3, 1) if upscale == 3 else (2, round(math.log2(upscale)))
    if step**repeats != upscale:
        raise ValueError(f"upscale: expected 2, 3 or 4, got {upscale}")
    stages: list[nn.Module] = []
    for _ in range(repeats):
        stages += [convolution(in_features, step**2 * features), nn.PixelShuffle(step)]
        in_features = features
    return stages


def linear_tail(upscale: int, features: int) -> nn.Sequential:
    """Tail of EDSR and NLSN: upsampling, and a convolution to the image."""
    upsampler = nn.Sequential(*upsampling_stages(upscale, features, features))
    return nn.Sequential(upsampler, convolution(features, 3))


def read_linear_tail(state: Mapping[str, torch.Tensor]) -> int:
    """Read the factor of a `linear_tail` named `tail`.

    Raises:
        CheckpointError: the shapes belong to no x2, x3 or x4 upsampler.
    """
    stages = sorted(key for key in state if re.fullmatch(r"tail\.0\.\d+\.weight", key))
    return read_upscale([state[key] for key in (*stages, "tail.1.weight")])


def read_upscale(convolutions: list[torch.Tensor]) -> int:
    """Read the factor of upsampling stages from the weights of their and the next convolution.

    Raises:
        CheckpointError: the shapes belong to no x2, x3 or x4 upsampler.
    """
    ratios = [
        weight.shape[0] / max(1, following.shape[1]) if weight.ndim == following.ndim == 4 else 0.0
        for weight, following in itertools.pairwise(convolutions)
    ]
    upscales = {(4.0,): 2, (9.0,): 3, (4.0, 4.0): 4}
    try:
        return upscales[tuple(ratios)]
    except KeyError:
        shapes = ", ".join(str(tuple(weight.shape)) for weight in convolutions) or "none"
        raise CheckpointError(
            "expected, before the tail's last convolution with n input channels, one to 4n "
            f"channels for x2, one to 9n for x3, or two to 4n for x4, got the shapes {shapes}"
        ) from None


def read_head_features(state: Mapping[str, torch.Tensor], key: str) -> int:
    """Read the number of channels that a network's first convolution returns.

    Raises:
        CheckpointError: the weight is not (n, 3, 3, 3).
    """
    shape = tuple(state[key].shape)
    if len(shape) != 4 or shape[1:] != (3, 3, 3):
        raise CheckpointError(f"{key}: expected shape (n, 3, 3, 3), got {shape}")
    return shape[0]


def read_norm_groups(state: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Read `norm_groups` if the tensors show it: batch normalization has running statistics."""
    normalized = any(re.search(r"\.norm\d?\.weight$", key) for key in state)
    without_statistics = not any(key.endswith("running_mean") for key in state)
    return {} if normalized and without_statistics else {"norm_groups": 0}
