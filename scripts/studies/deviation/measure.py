"""Measure tensors in the residual blocks of a twin."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from adadm.calibration.quality.photographs import CalibrationImages
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator, ResidualBlock
from adadm.export.proof.pytorch import run_network
from adadm.runtime.images.arrays import (
    ImageArray,
    batch_from_image,
    crop_to_multiple,
    image_from_batch,
    reduce,
)
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.json_format import rounded

_SIDE_PX = 256  # side of the squares cut from the middle of originals


def scores(network: Network, folders: Sequence[Path]) -> dict[str, float]:
    """Mean PSNR-Y (dB) over all images of each folder."""
    means = {}
    for folder in folders:
        db = []
        for image in CalibrationImages.of([folder], network.upscale, count=10**6):
            sr = run_network(network, batch_from_image(image.lr, network.rgb_range))
            db.append(psnr_y(image_from_batch(sr, network.rgb_range), image.hr, network.upscale))
        means[folder.name] = round(math.fsum(db) / len(db), 4)
    return means


def deviations(network: Network, originals: Iterable[ImageArray]) -> list[dict[str, float]]:
    """Mean standard deviations over photographs, by block, in the units of rgb_range.

    `trunk` is the input of the block, `normalized` that of its first convolution, `residual` the
    result of its last convolution (times res_scale), `added` the term that is added to the trunk.
    """
    photographs = []
    for original in originals:
        with _watching(network) as seen:
            run_network(network, _batch(network, original))
        photographs.append(
            [{name: float(x.double().std()) for name, x in block.items()} for block in seen]
        )
    rows: list[dict[str, float]] = rounded(
        [
            {name: statistics.fmean(block[name] for block in blocks) for name in blocks[0]}
            for blocks in zip(*photographs, strict=True)
        ]
    )
    return rows


def edges(network: Network, original: ImageArray, block: int) -> npt.NDArray[np.float32]:
    """Residual of a block, (H, W): mean magnitude over channels, each minus its own mean."""
    with _watching(network) as seen:
        run_network(network, _batch(network, original))
    added = seen[block]["added"][0]
    centered = added - added.mean(dim=(1, 2), keepdim=True)
    strength: npt.NDArray[np.float32] = centered.abs().mean(dim=0).numpy()
    return strength


def modulators(network: Network) -> list[dict[str, float]]:
    """Learned w and b of each block; empty without modulators."""
    rows: list[dict[str, float]] = rounded(
        [
            {"w": float(module.weight.item()), "b": float(module.bias.item())}
            for module in network.modules()
            if isinstance(module, Modulator) and module.bias is not None
        ]
    )
    return rows


@contextmanager
def _watching(network: Network) -> Iterator[list[dict[str, torch.Tensor]]]:
    """Collect the tensors of each residual block during a forward pass."""
    seen: list[dict[str, torch.Tensor]] = []
    with ExitStack() as hooks:
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                for hook in (
                    block.register_forward_pre_hook(lambda _, x: seen.append({"trunk": x[0]})),
                    block.norm1.register_forward_hook(
                        lambda _, __, y: seen[-1].update(normalized=y)
                    ),
                    block.phi.register_forward_hook(
                        lambda _, x, y: seen[-1].update(residual=x[1], added=y - x[0])
                    ),
                ):
                    hooks.enter_context(hook)
        yield seen


def _batch(network: Network, original: ImageArray) -> npt.NDArray[np.float32]:
    height, width = original.shape[:2]
    top, left = (max(0, (side - _SIDE_PX) // 2) for side in (height, width))
    middle = original[top : top + _SIDE_PX, left : left + _SIDE_PX]
    lr = reduce(crop_to_multiple(middle, network.upscale), network.upscale)
    return batch_from_image(lr, network.rgb_range)
