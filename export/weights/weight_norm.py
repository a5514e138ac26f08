"""Undo PyTorch's weight normalization: `weight = g * v / |v|`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from adadm.export.weights.dense_tensors import is_dense

_FORMS = (
    (r"^(.*)\.parametrizations\.(\w+)\.original0$", r"\1.parametrizations.\2.original1", r"\1.\2"),
    (r"^((?:.*\.)?weight)_g$", r"\1_v", r"\1"),
)
"""Key of g; keys of v and of the weight. The second form is that of PyTorch before 2.0."""


def fold_weight_norm(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[str, str]]]:
    """Replace each pair of g and v by the weight that PyTorch computes from it, bit for bit.

    What is named like a pair, but has not the shapes of one, is left alone.

    Returns:
        The tensors, and the keys of g and v by that of their weight.
    """
    folded, pairs = dict(tensors), {}
    for pattern, of_v, of_weight in _FORMS:
        for key, g in tensors.items():
            if (
                not (match := re.match(pattern, key))
                or (other := match.expand(of_v)) not in tensors
            ):
                continue
            v, weight = tensors[other], match.expand(of_weight)
            if (axis := _axis(g, v)) is None:
                continue
            del folded[key], folded[other]
            dtype = torch.promote_types(v.dtype, torch.float32)
            folded[weight] = torch._weight_norm(v.to(dtype), g.to(dtype), axis)
            pairs[weight] = (key, other)
    return folded, pairs


def _axis(g: torch.Tensor, v: torch.Tensor) -> int | None:
    """Axis along which the norms of v are taken, -1 for all; None if the two are no pair."""
    if not (is_dense(g) and is_dense(v) and v.ndim):
        return None
    if g.ndim == 0:
        return -1
    axis = next((n for n, size in enumerate(g.shape) if size > 1), 0)
    fits = list(g.shape) == [size if n == axis else 1 for n, size in enumerate(v.shape)]
    return axis if fits else None
