"""Accuracy of a network compared with bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass

from adadm.export.networks import Network
from adadm.export.proof.cases import photograph_crops, photograph_side
from adadm.export.proof.pytorch import run_network
from adadm.runtime.images.arrays import batch_from_image, enlarge, image_from_batch, reduce
from adadm.runtime.images.metrics import psnr_y


@dataclass(frozen=True)
class Accuracy:
    """PSNR-Y (dB) of a photograph, reduced and enlarged again."""

    name: str
    bicubic_db: float
    network_db: float


def measure_accuracy(network: Network) -> list[Accuracy]:
    """Enlarge reduced photographs with a network and with bicubic interpolation."""
    results = []
    for name, hr in photograph_crops(network, photograph_side(network)).items():
        lr = reduce(hr, network.upscale)
        sr = run_network(network, batch_from_image(lr, network.rgb_range))
        bicubic = enlarge(lr, network.upscale)
        images = bicubic, image_from_batch(sr, network.rgb_range)
        scores = [psnr_y(image, hr, shave=network.upscale) for image in images]
        results.append(Accuracy(name, *scores))
    return results
