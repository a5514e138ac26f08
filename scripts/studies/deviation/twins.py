"""The three twins of one EDSR: without normalization, with it, and with it and AdaDM.

They differ in nothing else: each block is built whole, and then the parts that its twin lacks are
removed, so that all twins of one seed start from the same convolutions.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from adadm.export.networks.blocks import ResidualBlock
from adadm.export.networks.edsr import EDSR


class _Sum(nn.Module):
    """Replacement of a modulator: adds the residual unchanged."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return x + residual


class _NormalizedBlock(ResidualBlock):
    def __init__(self, features: int, res_scale: float, norm_groups: int) -> None:
        super().__init__(features, res_scale, norm_groups)
        self.phi = _Sum()  # type: ignore[assignment]


class _PlainBlock(_NormalizedBlock):
    def __init__(self, features: int, res_scale: float, norm_groups: int) -> None:
        super().__init__(features, res_scale, norm_groups)
        self.norm1, self.norm2 = nn.Identity(), nn.Identity()


class Plain(EDSR):
    """EDSR as published in 2017: no normalization."""

    architecture: ClassVar[str] = "studies.deviation.twins:Plain"
    block: ClassVar[type[ResidualBlock]] = _PlainBlock


class Normalized(EDSR):
    """EDSR with batch normalization where AdaDM has it, but without AdaDM."""

    architecture: ClassVar[str] = "studies.deviation.twins:Normalized"
    block: ClassVar[type[ResidualBlock]] = _NormalizedBlock


TWINS = {
    "plain": Plain.architecture,
    "normalized": Normalized.architecture,
    "adadm": EDSR.architecture,
}
"""Name of each twin for `--arch`."""
