"""In which units a deployed model has what its reference has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.export.graph.channels import Affine

Array = npt.NDArray[Any]

_IDENTITY = Affine(np.ones(1), np.zeros(1))


@dataclass(frozen=True)
class ChannelMap:
    """The candidate has `scale * x + offset` for the reference's `x`; both (C,) or (1,).

    A scale is 0 for a channel that is constant in one of both, and tells nothing.
    """

    scale: Array
    offset: Array

    @classmethod
    def between(cls, reference: Affine | None, candidate: Affine | None) -> ChannelMap:
        """From what each has for the tensor of the network as it was trained."""
        reference, candidate = reference or _IDENTITY, candidate or _IDENTITY
        alive = reference.scale != 0
        scale = np.where(alive, candidate.scale / np.where(alive, reference.scale, 1), 0)
        return cls(scale, candidate.shift - scale * reference.shift)

    def to_candidate(self, values: Array) -> Array:
        """What the reference has (N, C, H, W), as the candidate would have it."""
        scaled = values * _spread(self.scale) if (self.scale != 1).any() else values
        return scaled + _spread(self.offset) if self.offset.any() else scaled

    def to_reference(self, values: Array, expected: Array) -> Array:
        """What the candidate has (N, C, H, W), as the reference would have it.

        Args:
            expected: what the reference has, of which channels are taken that tell nothing.
        """
        dead = self.scale == 0
        moved = values - _spread(self.offset) if self.offset.any() else values
        if (self.scale != 1).any():
            moved = moved / _spread(np.where(dead, 1, self.scale))
        return np.where(dead.reshape(1, -1, 1, 1), expected, moved) if dead.any() else moved


def _spread(values: Array) -> Array:
    return values.astype(np.float32).reshape(1, -1, 1, 1)
