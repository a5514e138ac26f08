"""Which layer is the first that is wrong, by what it adds of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adadm.calibration.certification.layer_errors import LayerErrors
from adadm.calibration.certification.layer_graph import IMAGE, MODULATOR

__all__ = ["Divergence", "JudgedLayer", "LIMITS", "first_divergence"]
