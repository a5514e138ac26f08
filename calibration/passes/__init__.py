"""Passes on onnx-ir that lower a graph's precision; each class docstring is its specification."""

from __future__ import annotations

from adadm.calibration.passes.equalize_channels import EqualizeChannels
from adadm.calibration.passes.lower_to_half import LowerToHalf
from adadm.calibration.passes.quantize_convolutions import QuantizeConvolutions
from adadm.calibration.passes.scale_trunk import ScaleTrunk

__all__ = ["EqualizeChannels", "LowerToHalf", "QuantizeConvolutions", "ScaleTrunk"]
