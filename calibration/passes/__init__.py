"""Passes on onnx-ir that lower the precision of a graph; class docstrings are specifications."""

from __future__ import annotations

from adadm.calibration.passes.equalize_channels import EqualizeChannels
from adadm.calibration.passes.lower_to_half import LowerToHalf
from adadm.calibration.passes.quantize_convolutions import QuantizeConvolutions
from adadm.calibration.passes.scale_trunk import ScaleTrunk

__all__ = ["EqualizeChannels", "LowerToHalf", "QuantizeConvolutions", "ScaleTrunk"]
