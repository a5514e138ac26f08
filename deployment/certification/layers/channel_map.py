"""Affine maps between the channels of a deployed model and those of its reference."""

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
    """Map of channels: the candidate has `scale * x + offset` for the reference's `x`.

    Both are (C,) or (1,). A scale of 0 marks a channel that is constant in either model, and cannot
    be compared.
    """

    scale: Array
    offset: Array

    @classmethod
    def between(cls, reference: Affine | None, candidate: Affine | None) -> ChannelMap:
        """Combine the maps of both models from the network as it was trained."""
        reference, candidate = reference or _IDENTITY, candidate or _IDENTITY
        alive = reference.scale != 0
        scale = np.where(alive, candidate.scale / np.where(alive, reference.scale, 1), 0)
        return cls(scale, candidate.shift - scale * reference.shift)

    def to_candidate(self, values: Array) -> Array:
        """Convert values (N, C, H, W) of the reference to units of the candidate."""
        scaled = values * _spread(self.scale) if (self.scale != 1).any() else values
        return scaled + _spread(self.offset) if self.offset.any() else scaled

    def to_reference(self, values: Array, expected: Array) -> Array:
        """Convert values (N, C, H, W) of the candidate to units of the reference.

        Args:
            expected: values of the reference, which replace channels that cannot be compared.
        """
        dead = self.scale == 0
        moved = values - _spread(self.offset) if self.offset.any() else values
        if (self.scale != 1).any():
            moved = moved / _spread(np.where(dead, 1, self.scale))
        return np.where(dead.reshape(1, -1, 1, 1), expected, moved) if dead.any() else moved


def _spread(values: Array) -> Array:
    return values.astype(np.float32).reshape(1, -1, 1, 1)
