"""Small networks that really enlarge, and photographs to measure them on."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import torch
from PIL import Image
from torch import nn

from _support.exports import trace_like
from _support.networks import random_edsr
from adadm.export import Options, save_checkpoint
from adadm.export.assembly import assemble
from adadm.export.checkpoint import load_checkpoint
from adadm.export.networks import Network
from adadm.export.networks.blocks import ResidualBlock
from adadm.export.proof.sample_photographs import photographs

FEATURES = 8


def enlarging_edsr(blocks: int = 2, seed: int = 0) -> Network:
    """An EDSR x2 that repeats pixels, and adds what random residual blocks make of them.

    Its output is near its input, so that losses are some hundredths of a dB and the gates leave
    nothing out: the last convolution of the body hardly responds to flat areas. It is worse than
    bicubic interpolation. The second convolution of a block has no taps but the middle one.
    """
    network = random_edsr(2, blocks, FEATURES, seed)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameters[f"head.0.{name}"].mul_(0.3)[:3] = 0
            parameters[f"tail.0.0.{name}"].mul_(0.007)
            parameters[f"tail.1.{name}"].zero_()
            parameters[f"body.{blocks}.{name}"].mul_(0.1)
        last = parameters[f"body.{blocks}.weight"]
        last.sub_(0.8 * last.mean(dim=(2, 3), keepdim=True))
        for block in range(blocks):
            weight = parameters[f"body.{block}.conv2.weight"]
            middle = weight[..., 1, 1].clone()
            weight.zero_()[..., 1, 1] = 3 * middle
        for colour in range(3):
            parameters["head.0.weight"][colour, colour, 1, 1] = 1
            parameters["tail.1.weight"][colour, colour, 1, 1] = 1
            parameters["tail.0.0.weight"][4 * colour : 4 * colour + 4, colour, 1, 1] += 1
    return network


def blocks_of(network: Network) -> list[ResidualBlock]:
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


def plant_offset(network: Network, block: int, offset: float = 2000.0) -> None:
    """Make the second convolution of a block unfit for INT8; the network computes the same.

    What it reads gets a large mean, which its bias takes off again. No factor by channel undoes
    that, since levels are symmetric about 0; no border is touched, since only the middle tap reads.
    """
    changed = blocks_of(network)[block]
    assert changed.conv2.bias is not None
    with torch.no_grad():
        changed.norm2.get_parameter("bias").add_(offset)
        changed.conv2.bias.sub_(offset * changed.conv2.weight.sum(dim=(1, 2, 3)))


def plant_large_trunk(network: Network, times: float) -> None:
    """Make the trunk larger; the network computes the same, but for the rounding."""
    parameters = dict(network.named_parameters())
    blocks = blocks_of(network)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameters[f"head.0.{name}"].mul_(times)
        for block in blocks:
            block.norm1.get_buffer("running_mean").mul_(times)
            block.norm1.get_buffer("running_var").mul_(times**2)
            assert block.phi.bias is not None
            block.phi.bias.add_((1 - block.phi.weight.item()) * math.log(times))
        parameters[f"body.{len(blocks)}.bias"].mul_(times)
        parameters["tail.0.0.weight"].div_(times)


def plant_shift(norm: nn.Module, channels: int | slice, times: float) -> None:
    """Let channels of a normalization shift what it reads by so many times its std."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    std = (norm.running_var.mean() + norm.running_mean.var(unbiased=False)).sqrt()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        norm.bias[channels] = (scale * (times * std + norm.running_mean))[channels]


def plant_large_branch(network: Network, block: int, times: float) -> None:
    """Make large gammas of what lies inside one block; the network computes the same."""
    changed = blocks_of(network)[block]
    with torch.no_grad():
        for name in ("weight", "bias"):
            changed.norm2.get_parameter(name).mul_(times)
        changed.conv2.weight.div_(times)


def write_checkpoint(path: Path, network: Network) -> Path:
    """A checkpoint, and beside it the same as `adadm export --fold off` has it."""
    save_checkpoint(path, network)
    metadata = load_checkpoint(path).metadata
    unfolded = assemble(trace_like(network), metadata, Options(fold="off"))
    onnx.save(unfolded.model, path.with_suffix(".onnx"))
    return path


def write_crops(folder: Path, height: int = 72, width: int = 88, count: int = 3) -> list[Path]:
    """Pieces of scikit-image's photographs as PNG, up to four, or more of the same."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    while len(paths) < count:
        turn = len(paths) // 4
        for name, photo in list(photographs().items())[: count - len(paths)]:
            top, left = (side // 3 - 30 * turn for side in photo.shape[:2])
            paths.append(folder / f"{name}{turn or ''}.png")
            Image.fromarray(photo[top : top + height, left : left + width]).save(paths[-1])
    return paths
