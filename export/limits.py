"""Limits of the modulators: the largest deviation of a trunk that its factor follows.

`factor = exp(w * ln(min(std, limit)) + b)`. In evaluation mode batch normalization is affine, so
the residual grows with the trunk. If the factor grows too, each block amplifies high contrast more
than low contrast, and above the contrast of training the network runs away. A limit is a multiple
of the deviation that the trunk had in training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from adadm.export.graph.channels import pooled_variance
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.networks.network import named_modulators
from adadm.export.operators.modulator import find_inlined
from adadm.export.proof.cases import photograph_batches, photograph_side
from adadm.runtime.errors import CheckpointError

Limit = float | Literal["auto", "off"]
"""Multiple of the deviation of training; `auto`: the file's limits, or `FACTOR`; `off`: none."""

FACTOR = 1.5
"""None of 188 photographs reaches it; no drawn picture is lost (docs/results/contrast.md)."""


def set_limits(network: Network, limit: Limit, recorded: Mapping[str, float]) -> None:
    """Give each modulator of a network its limit.

    Args:
        recorded: limits in the network's file, by modulator name.

    Raises:
        CheckpointError: the factor is not a positive number, or the recorded limits do not match
            the network's modulators.
    """
    if limit == "off":
        return
    limits = recorded
    if limit != "auto" or not recorded:
        factor = FACTOR if limit == "auto" else limit
        if not 0 < factor < math.inf:
            raise CheckpointError(f"expected a limit greater than 0, got {factor:g}")
        limits = {name: factor * std for name, std in deviations_of_training(network).items()}
    modulators = named_modulators(network)
    if limits.keys() != modulators.keys() or not all(
        0 < each < math.inf for each in limits.values()
    ):
        raise CheckpointError(
            "expected a limit greater than 0 for each modulator in the file's metadata, got "
            f"{dict(limits)}; load it with limit='off' or a factor"
        )
    for name, module in modulators.items():
        module.limit = float(np.float32(limits[name]))


def limits_of(network: Network) -> dict[str, float]:
    """Limits by modulator name; modulators without a limit are left out."""
    limits = {name: module.limit for name, module in named_modulators(network).items()}
    return {name: limit for name, limit in limits.items() if limit is not None}


def without_limits(network: Network) -> Network:
    """Copy of a network whose modulators have no limits."""
    free = copy.deepcopy(network)
    for module in named_modulators(free).values():
        module.limit = None
    return free


def remove_limits(graph: ir.Graph) -> None:
    """Remove the limits of the inlined modulators of a graph."""
    for modulator in find_inlined(graph):
        if modulator.limited_std is not modulator.std:
            ir.convenience.replace_all_uses_with(modulator.limited_std, modulator.std)


def deviations_of_training(network: Network) -> dict[str, float]:
    """Std of the trunk in training by modulator name, estimated afterwards.

    If batch normalization reads the trunk, its running statistics give the std. Else it is
    measured: the mean over photographs.
    """
    side = network.example_side
    read = _read_by_modules(network, torch.zeros(1, 3, side, side))
    normalized = [
        (value, module)
        for module, value in read.items()
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None
    ]
    deviations = {}
    for name, modulator in named_modulators(network).items():
        norms = [norm for value, norm in normalized if value is read.get(modulator)]
        if norms:
            mean, variance = (
                getattr(norms[0], f"running_{kind}").double().numpy() for kind in ("mean", "var")
            )
            deviations[name] = math.sqrt(pooled_variance(mean, variance))
    if deviations.keys() == named_modulators(network).keys():
        return deviations
    return {**_measured(network), **deviations}


def trunk_deviations(network: Network, lr: torch.Tensor) -> dict[str, float]:
    """Std of the trunk by modulator name, for one image (1, 3, H, W)."""
    read = _read_by_modules(network, lr)
    return {n: read[module].std().item() for n, module in named_modulators(network).items()}


def _measured(network: Network) -> dict[str, float]:
    """Mean std of the trunk over scikit-image's photographs, by modulator name."""
    measured = [
        trunk_deviations(network, torch.from_numpy(lr))
        for lr in photograph_batches(network, photograph_side(network)).values()
    ]
    return {name: float(np.mean([stds[name] for stds in measured])) for name in measured[0]}


def _read_by_modules(network: Network, lr: torch.Tensor) -> dict[nn.Module, torch.Tensor]:
    """First input of each normalization and modulator in a run of the network."""
    read: dict[nn.Module, torch.Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        read[module] = inputs[0]

    with ExitStack() as hooks, torch.inference_mode():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, Modulator)):
                hooks.enter_context(module.register_forward_pre_hook(note))
        network(lr)
    return read
