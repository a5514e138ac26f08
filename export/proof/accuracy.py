"""Accuracy of a network compared with bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass

from adadm.export.networks import Network
from adadm.export.proof.cases import photograph_crops, photograph_side
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.pytorch import enlarge_image
from adadm.runtime.images.arrays import enlarge, reduce
from adadm.runtime.images.metrics import psnr_y, resemblance_margin


@dataclass(frozen=True)
class Accuracy:
    """PSNR-Y (dB) of a photograph, reduced and enlarged again."""

    name: str
    bicubic_db: float
    network_db: float


def measure_accuracy(network: Network, side: int | None = None) -> list[Accuracy]:
    """Enlarge reduced photographs with a network and with bicubic interpolation.

    Args:
        side: height and width of the reduced photographs, px; None for `photograph_side`.
    """
    results = []
    for name, hr in photograph_crops(network, side or photograph_side(network)).items():
        lr = reduce(hr, network.upscale)
        images = enlarge(lr, network.upscale), enlarge_image(network, lr)
        scores = [psnr_y(image, hr, shave=network.upscale) for image in images]
        results.append(Accuracy(name, *scores))
    return results


def drawn_margins(network: Network, *, unseen: bool) -> dict[str, float]:
    """Resemblance margin (dB over bicubic) of each of `drawn_pictures`, by name."""
    return {
        name: resemblance_margin(enlarge_image(network, lr), lr)
        for name, lr in drawn_pictures(unseen=unseen).items()
    }
