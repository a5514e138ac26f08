"""Networks on which a wrong fold shows: nothing in them is neutral."""

from __future__ import annotations

import torch
from torch import nn

from adadm.export.checkpoint import network_class
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator, ResidualBlock
from adadm.export.networks.rdn import ResidualDenseBlock

SMALL: dict[str, dict[str, float]] = {
    "edsr": {"blocks": 3, "features": 12},
    "nlsn": {"blocks": 9, "features": 12, "n_hashes": 2},
    "rdn": {"blocks": 3, "layers": 3, "growth": 8, "features": 8},
}
CUSTOM = {"_support.custom_networks:RCANLike": 2, "_support.custom_networks:RRDBLike": 4}
"""A user's networks, and their factors."""

PUBLISHED: dict[str, tuple[str, dict[str, float]]] = {
    "edsr": ("edsr", {"blocks": 32, "features": 256}),
    "nlsn": ("nlsn", {"blocks": 32, "features": 256}),
    "rdn A": ("rdn", {"blocks": 20, "layers": 6, "growth": 32, "features": 64}),
    "rdn B": ("rdn", {"blocks": 16, "layers": 8, "growth": 64, "features": 64}),
}


def make_non_neutral(
    network: Network, seed: int, steps: int = 6, size: int = 24, residual_gain: float = 6
) -> Network:
    """Gammas of both signs, betas and phi at random, BN statistics estimated in training mode.

    Args:
        residual_gain: makes the residuals no small part of the output. Many blocks want less: each
            amplifies with the deviation that the one before it left, and in the end they overflow.
    """
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            sign = torch.where(torch.rand_like(module.weight) < 0.3, -1.0, 1.0)
            module.weight.data = sign * torch.empty_like(module.weight).uniform_(0.3, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.momentum = None  # the plain average of all steps
        elif isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
        elif isinstance(module, Modulator):
            assert module.bias is not None
            nn.init.uniform_(module.weight, 0.7, 1.1)
            nn.init.uniform_(module.bias, -0.4, 0.4)
        elif isinstance(module, ResidualBlock):
            module.conv2.weight.data *= residual_gain
        elif isinstance(module, ResidualDenseBlock):
            module.LFF.weight.data *= residual_gain / 6
    network.train()
    with torch.no_grad():
        for _ in range(steps):
            network(torch.rand(2, 3, size, size) * network.rgb_range)
    return network.eval()


def random_network(
    architecture: str, upscale: int, seed: int = 0, **hyperparameters: float
) -> Network:
    """A network in the published layout with random weights, by default a small one."""
    torch.manual_seed(seed)
    if architecture in CUSTOM:
        network = network_class(architecture)(rgb_range=255)
    else:
        size = hyperparameters or SMALL[architecture]
        network = network_class(architecture)(upscale=upscale, **size)
    assert network.upscale == upscale
    many_blocks = network.hyperparameters.get("blocks", 0) > 8
    return make_non_neutral(network, seed, residual_gain=1 if many_blocks else 6)


def random_edsr(
    upscale: int, blocks: int = 3, features: int = 12, seed: int = 0, **hyperparameters: float
) -> Network:
    """An EDSR with AdaDM of some size."""
    size = {"blocks": blocks, "features": features}
    return random_network("edsr", upscale, seed, **size, **hyperparameters)
