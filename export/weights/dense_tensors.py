"""Tensors that can be weights: dense and real, with a value in the file for each element."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from adadm.runtime.errors import CheckpointError

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)

_MOST_SHARED = 64
"""Bytes of all tensors of a network, as a multiple of the file's, since modules may share some."""


def is_dense(tensor: torch.Tensor) -> bool:
    """True if a tensor has real floating-point numbers, each in memory of its own."""
    return flaw_of(tensor) is None and tensor.is_floating_point()


def check_dense(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that cannot be weights, before anything is computed from them.

    Raises:
        CheckpointError: one is sparse, quantized, nested, complex, without values, or a view that
            repeats values; or all together are far larger than the file.
    """
    for key, tensor in state.items():
        if flaw := flaw_of(tensor):
            raise CheckpointError(f"{path}: {key}: expected a dense tensor of numbers, got {flaw}")
    size, taken = path.stat().st_size, sum(tensor.nbytes for tensor in state.values())
    if taken > _MOST_SHARED * size:
        raise CheckpointError(f"{path}: expected tensors of its {size} bytes, got {taken} bytes")


def flaw_of(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being weights; None if nothing does."""
    if tensor.is_nested:
        return "a nested one"
    if tensor.layout is not torch.strided:
        return f"one of layout {tensor.layout}"
    if tensor.dtype not in _FLOATS + _INTEGERS:
        return f"one of {tensor.dtype}"
    if tensor.device.type != "cpu":
        return f"one without values, on the device {tensor.device}"
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        return "one that repeats its values (save tensor.contiguous())"
    return None
