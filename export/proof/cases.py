"""Photographs and hard cases for the check of parity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adadm.export.networks import Network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.images.arrays import Batch, ImageArray, batch_from_image, reduce

Shape = tuple[int, int, int]

_PIXELS_TIMES_PARAMETERS = 1e10

_PHOTOGRAPH_PX = (40, 128)


def parity_cases(network: Network, static: Shape | None) -> Iterator[tuple[str, Batch]]:
    """Yield named batches (N, 3, H, W): photographs, and cases that break exports."""
    white = network.rgb_range
    photos = photograph_batches(network, photograph_side(network))
    if static is not None:
        for name, photo in photos.items():
            yield name, _fitted(photo, static)
        shapes = {"flat black": static, "flat white": static, "one bright pixel": static}
    else:
        yield from photos.items()
        photo = next(iter(photos.values()))
        least = network.smallest_side
        small = max(24, least)
        yield "odd size", _fitted(photo, (1, small + 13, small + 29))
        yield "batch of 2", _fitted(photo, (2, small, small + 7))
        yield "aspect 1:8", _fitted(photo, (1, max(16, least), 8 * max(16, least)))
        yield "smallest", _fitted(photo, (1, least, least))
        shapes = {
            "flat black": (1, small, small),
            "flat white": (1, small, small),
            "one bright pixel": (1, small + 1, small + 3),
        }
    for name, (batch, height, width) in shapes.items():
        lr = np.full((batch, 3, height, width), white * (name == "flat white"), np.float32)
        if name == "one bright pixel":
            lr[..., height // 2, width // 2] = white
        yield name, lr


def photograph_batches(network: Network, side: int) -> dict[str, Batch]:
    """Reduced photographs (1, 3, H, W) for a network, at most `side` px high and wide."""
    return {
        name: batch_from_image(reduce(hr, network.upscale), network.rgb_range)
        for name, hr in photograph_crops(network, side).items()
    }


def photograph_crops(network: Network, side: int) -> dict[str, ImageArray]:
    """Crops from the middle of photographs, `side` px high and wide after reduction."""
    upscale = network.upscale
    return {n: _middle(image, side * upscale, upscale) for n, image in photographs().items()}


def photograph_side(network: Network) -> int:
    """Side of reduced photographs, px; smaller for more parameters, so that a run takes seconds."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    side = int(np.clip((_PIXELS_TIMES_PARAMETERS / parameters) ** 0.5, *_PHOTOGRAPH_PX))
    return max(side, network.smallest_side)


def _middle(image: ImageArray, side: int, multiple_of: int) -> ImageArray:
    height, width = (min(side, n - n % multiple_of) for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _fitted(photo: Batch, shape: Shape) -> Batch:
    """Batch of a given shape from a photograph (1, 3, H, W), mirrored if that is too small."""
    count, height, width = shape
    missing = [
        (0, max(0, size - have))
        for size, have in zip((height, width), photo.shape[2:], strict=True)
    ]
    large = np.pad(photo, ((0, 0), (0, 0), *missing), mode="symmetric")[..., :height, :width]
    turned = [large if i % 2 == 0 else large[..., ::-1, :] * np.float32(0.5) for i in range(count)]
    return np.ascontiguousarray(np.concatenate(turned))
