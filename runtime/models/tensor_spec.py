"""Specification of an input or output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """An input or output; a string or None in the shape is a free dimension."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]
