"""Run a network in PyTorch, and record its inner values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.networks.network import named_modulators
from adadm.export.networks.sparse_attention import AttentionRound
from adadm.runtime.images.arrays import Batch, ImageArray, batch_from_image, image_from_batch


@dataclass(frozen=True)
class HashCodes:
    """Comparison of another backend's buckets in one attention round with PyTorch's.

    Attributes:
        differing: number of pixels in another bucket.
        largest_gap: largest amount by which PyTorch's bucket is nearer, relative to the largest
            projection; a rounding if two buckets are equally near.
    """

    name: str
    pixels: int
    differing: int
    largest_gap: float


def run_network(network: Network, lr: Batch) -> Batch:
    """Run a network in PyTorch, on the device that it lies on."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        sr: Batch = network(torch.from_numpy(lr).to(device)).cpu().numpy()
    return sr


def enlarge_image(network: Network, lr: ImageArray) -> ImageArray:
    """An image (H, W, 3) enlarged by a network in PyTorch; NaN becomes 0."""
    sr = run_network(network, batch_from_image(lr, network.rgb_range))
    within = np.nan_to_num(sr).clip(0, network.rgb_range)  # a runaway overflows in grey levels
    return image_from_batch(within, network.rgb_range)


def run_with_factors(network: Network, lr: Batch) -> tuple[Batch, list[Batch]]:
    """Run a network in PyTorch; return `sr` and the modulation factors (N, 1, 1, 1) in order."""
    factors: list[Batch] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, Modulator)
        factors.append(module.factor(inputs[0]).numpy())

    with ExitStack() as hooks:
        for module in named_modulators(network).values():
            hooks.enter_context(module.register_forward_pre_hook(note))
        return run_network(network, lr), factors


def run_with_codes(
    network: Network, lr: Batch, codes: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[Batch, list[Batch], list[HashCodes]]:
    """Run a network whose attention uses given buckets, by the name of each round.

    Every round reads the same input as in the backend that made the codes, so a code can differ
    from PyTorch's only by rounding.

    Returns:
        `sr`, the modulation factors in order, and the comparison of the codes with PyTorch's.
    """
    results: list[HashCodes] = []

    def force(name: str, module: AttentionRound, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        match, values = inputs
        buckets = torch.from_numpy(codes[name])
        projected = module.project(match)
        nearest = projected.max(dim=-1)
        gap = nearest.values - projected.gather(-1, buckets[..., None]).squeeze(-1)
        results.append(
            HashCodes(
                name=name,
                pixels=buckets.numel(),
                differing=int((nearest.indices != buckets).sum()),
                largest_gap=float(gap.max() / projected.abs().max().clamp(min=1e-30)),
            )
        )
        return match, values, buckets

    with ExitStack() as hooks:
        for name, module in attention_rounds(network).items():
            hooks.enter_context(module.register_forward_pre_hook(partial(force, name)))
        return *run_with_factors(network, lr), results


def attention_rounds(network: Network) -> dict[str, AttentionRound]:
    """Rounds of sparse attention in a network, by module name."""
    return {n: m for n, m in network.root.named_modules() if isinstance(m, AttentionRound)}
