"""Specification of an input or output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int | str | None, ...]
"""Lengths of a tensor; a string or None is a free dimension."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]

    def fits(self, shape: Shape, dtype: np.dtype[Any]) -> bool:
        """True if another shape and type may be of this tensor."""
        return (
            self.dtype == dtype
            and len(self.shape) == len(shape)
            and all(map(_may_equal, self.shape, shape))
        )

    def __str__(self) -> str:
        lengths = ", ".join("any" if length is None else str(length) for length in self.shape)
        return f"{self.name} {self.dtype} ({lengths})"


def _may_equal(one: int | str | None, other: int | str | None) -> bool:
    """False for different numbers, and for different multiples of a free dimension, as `2*H`."""
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    parts = [re.fullmatch(r"([0-9]+)\*(.+)", str(length)) for length in (one, other)]
    factors = [(part[2], part[1]) for part in parts if part]
    return len(factors) < 2 or factors[0][0] != factors[1][0] or factors[0] == factors[1]
