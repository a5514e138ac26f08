"""Whether an exported model computes what PyTorch computes, and whether that is any good.

Two questions, because the first does not answer the second: a wrong guess of `res_scale` or
`rgb_range` is shared by both sides, so parity holds and the pictures are bad.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from adadm.export.models import Network
from adadm.export.models.blocks import Modulator
from adadm.export.photographs import photographs
from adadm.runtime.compare import Comparison, compare
from adadm.runtime.errors import ParityError
from adadm.runtime.images import (
    Batch,
    ImageArray,
    batch_from_image,
    enlarge,
    image_from_batch,
    reduce,
)
from adadm.runtime.metrics import psnr_y
from adadm.runtime.onnxruntime_session import OnnxRuntimeSession

__all__ = [
    "LARGEST_RELATIVE_ERROR",
    "Accuracy",
    "check_parity",
    "measure_accuracy",
    "run_network",
    "run_with_factors",
]

Shape = tuple[int, int, int]

LARGEST_RELATIVE_ERROR = 3e-5
"""Of the output's peak: float32 keeps 6e-8 a step, and a network has some hundred steps."""

_PIXELS_TIMES_PARAMETERS = 1e10
_PHOTOGRAPH_PX = (40, 128)


@dataclass(frozen=True)
class Accuracy:
    """PSNR-Y (dB) of a reduced photograph, enlarged again."""

    name: str
    bicubic_db: float
    network_db: float


def check_parity(
    network: Network, session: OnnxRuntimeSession, static: Shape | None = None
) -> list[Comparison]:
    """Compare a model on ONNX Runtime with its network on photographs and hard cases.

    Args:
        static: N, H and W of a model whose sizes are fixed.

    Raises:
        ParityError: shapes differ, a value is not finite, an error is above
            `LARGEST_RELATIVE_ERROR` of the largest output of all cases, or a modulation factor
            that the model returns is off by more than that share.
    """
    results = []
    for name, lr in _cases(network, static):
        expected, factors = run_with_factors(network, lr)
        if not np.isfinite(expected).all():
            raise ParityError(
                f"PyTorch's own output of the case {name} is not finite: the network diverges, "
                "or its hyper-parameters are not those of its training; nothing was written"
            )
        outputs = session.run({"lr": lr})
        results.append(compare(name, outputs.pop("sr"), expected, border_px=4 * network.upscale))
        for index, output in enumerate(outputs):
            _check_factor(f"{output} of {name}", outputs[output], factors[index])
    peak = max(result.peak for result in results)
    misses = [r for r in results if r.largest_error > LARGEST_RELATIVE_ERROR * peak]
    if misses:
        listed = "\n".join(f"  {miss}" for miss in misses)
        raise ParityError(
            f"ONNX Runtime and PyTorch differ by more than {LARGEST_RELATIVE_ERROR:g} of the peak "
            f"{peak:.4g} in {len(misses)} of {len(results)} cases; nothing was written:\n{listed}"
        )
    return results


def measure_accuracy(network: Network) -> list[Accuracy]:
    """Enlarge reduced photographs with a network and with bicubic interpolation."""
    results = []
    for name, hr in _photographs(network).items():
        lr = reduce(hr, network.upscale)
        sr = run_network(network, batch_from_image(lr, network.rgb_range))
        bicubic = enlarge(lr, network.upscale)
        scores = [
            psnr_y(image, hr, shave=network.upscale)
            for image in (bicubic, image_from_batch(sr, network.rgb_range))
        ]
        results.append(Accuracy(name, *scores))
    return results


def _cases(network: Network, static: Shape | None) -> Iterator[tuple[str, Batch]]:
    """Named batches (N, 3, H, W): what is usual, and what breaks exports."""
    white = network.rgb_range
    photos = {
        name: batch_from_image(reduce(hr, network.upscale), white)
        for name, hr in _photographs(network).items()
    }
    if static is not None:
        for name, photo in photos.items():
            yield name, _fitted(photo, static)
        shapes = {"flat black": static, "flat white": static, "one bright pixel": static}
    else:
        yield from photos.items()
        photo = next(iter(photos.values()))
        least = network.smallest_input
        yield "odd size", _fitted(photo, (1, 37, 53))
        yield "batch of 2", _fitted(photo, (2, 24, 31))
        yield "aspect 1:8", _fitted(photo, (1, 16, 128))
        yield "smallest", _fitted(photo, (1, least, least))
        shapes = {
            "flat black": (1, 24, 24),
            "flat white": (1, 24, 24),
            "one bright pixel": (1, 25, 27),
        }
    for name, (batch, height, width) in shapes.items():
        lr = np.full((batch, 3, height, width), white * (name == "flat white"), np.float32)
        if name == "one bright pixel":
            lr[..., height // 2, width // 2] = white
        yield name, lr


def _photographs(network: Network) -> dict[str, ImageArray]:
    """Crops from the middle, smaller for a network with more parameters, to take seconds."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    side = int(np.clip((_PIXELS_TIMES_PARAMETERS / parameters) ** 0.5, *_PHOTOGRAPH_PX))
    side = max(side, network.smallest_input) * network.upscale
    return {name: _middle(image, side, network.upscale) for name, image in photographs().items()}


def _middle(image: ImageArray, side: int, multiple_of: int) -> ImageArray:
    height, width = (min(side, n - n % multiple_of) for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _fitted(photo: Batch, shape: Shape) -> Batch:
    """A batch of a shape from a photograph (1, 3, H, W), mirrored where it is too small."""
    count, height, width = shape
    missing = [
        (0, max(0, size - have))
        for size, have in zip((height, width), photo.shape[2:], strict=True)
    ]
    large = np.pad(photo, ((0, 0), (0, 0), *missing), mode="symmetric")[..., :height, :width]
    turned = [large if i % 2 == 0 else large[..., ::-1, :] * np.float32(0.5) for i in range(count)]
    return np.ascontiguousarray(np.concatenate(turned))


def run_network(network: Network, lr: Batch) -> Batch:
    """Run a network in PyTorch."""
    with torch.inference_mode():
        sr: Batch = network(torch.from_numpy(lr)).numpy()
    return sr


def run_with_factors(network: Network, lr: Batch) -> tuple[Batch, list[Batch]]:
    """Run a network in PyTorch; returns `sr` and the modulation factors (N, 1, 1, 1) in order."""
    factors: list[Batch] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, Modulator)
        factors.append(module.factor(inputs[0]).numpy())

    modulators = [module for module in network.modules() if isinstance(module, Modulator)]
    hooks = [module.register_forward_pre_hook(note) for module in modulators]
    try:
        return run_network(network, lr), factors
    finally:
        for hook in hooks:
            hook.remove()


def _check_factor(name: str, found: Batch, expected: Batch) -> None:
    error = float(np.abs(found / expected - 1).max())
    if not error <= LARGEST_RELATIVE_ERROR:
        raise ParityError(
            f"{name} is {found.ravel()} in ONNX Runtime and {expected.ravel()} in PyTorch; "
            "nothing was written"
        )
