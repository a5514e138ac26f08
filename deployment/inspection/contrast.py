"""Contrast that a network bears: photographs whose contrast grows, and drawn pictures.

In evaluation mode batch normalization is affine, so an AdaDM network without limits amplifies high
contrast more than low contrast, and above some contrast it runs away
(docs/explanation/contrast.md). A result is judged by its input: reduced again, it should be as near
as that of bicubic interpolation, or at most 1 dB further.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from adadm.deployment.certification.running import evaluated, run_graph
from adadm.deployment.inspection.inspected_file import InspectedFile
from adadm.export.limits import limits_of, remove_limits, without_limits
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.pytorch import run_network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.images.arrays import (
    Batch,
    ImageArray,
    batch_from_image,
    image_from_batch,
    reduce,
)
from adadm.runtime.images.metrics import LARGEST_LOSS_DB, resemblance_margin
from adadm.runtime.progress import SILENT, Progress

GROWTHS = 2.0 ** (np.arange(25) / 8)
"""Factors of the contrast that are tried: 1 to 8, in steps of 9 %."""

_SIDE_PX = 24
"""Of the pictures: most of what is lost at 96 px is lost at 24 too, in a tenth of the time."""

_OTHER_CONTRASTS = ("_inverted", "_dim")
"""Of the drawn pictures, those in black on white suffice."""

Run = Callable[[Batch], Batch]
"""Function of a batch (1, 3, H, W) in 0..rgb_range."""


@dataclass(frozen=True)
class Endurance:
    """Contrast that one form of a network bears.

    Attributes:
        headroom: largest factor of `GROWTHS` by which the contrast of every photograph can grow
            while its result still resembles it; 0 if one does not as it is, infinite if all do at
            the largest factor; None for a model of uint8 images, which end at black and white, and
            for an INT8 model, whose ranges end at those of images.
        photograph: the one that bears least; None if none fails.
        margins: resemblance margin (dB) of each drawn picture, by name.
        results: what the network makes of the drawn pictures, uint8, by name.
    """

    headroom: float | None
    photograph: str | None
    margins: Mapping[str, float]
    results: Mapping[str, ImageArray]

    @property
    def lost(self) -> dict[str, float]:
        """Margins (dB) of the drawn pictures that the results do not resemble, worst first."""
        lost = {name: db for name, db in self.margins.items() if db < -LARGEST_LOSS_DB}
        return dict(sorted(lost.items(), key=lambda item: item[1]))

    def as_json(self) -> dict[str, Any]:
        """The figures, without pictures."""
        figures = {name: value for name, value in vars(self).items() if name != "results"}
        return {**figures, "lost": list(self.lost)}


@dataclass(frozen=True)
class Contrast:
    """Contrast that a network bears, with and without its limits.

    Attributes:
        pictures: drawn pictures that were run, uint8 (H, W, 3), by name.
        deployed: the network as it is.
        unlimited: the network without its limits; None if it has none.
    """

    pictures: Mapping[str, ImageArray]
    deployed: Endurance
    unlimited: Endurance | None


def measure_contrast(inspected: InspectedFile, *, progress: Progress = SILENT) -> Contrast | None:
    """Measure the contrast that a network bears; None for a file that fixes the size of its input.

    Photographs are scaled about their mean, beyond black and white, and the results are scaled back
    before they are judged. That assumes that what is lost at one contrast is lost at any above.
    """
    if inspected.static is not None:
        return None
    upscale, rgb_range = inspected.metadata.upscale, inspected.metadata.rgb_range
    side = max(_SIDE_PX, math.isqrt(inspected.metadata.smallest_area - 1) + 1)
    pictures = {
        name: picture
        for name, picture in drawn_pictures(side).items()
        if not name.endswith(_OTHER_CONTRASTS)
    }
    photos = {name: _middle(image, side, upscale) for name, image in photographs().items()}
    found = []
    for name, run in _forms(inspected):
        progress.phase(f"raising the contrast, {name}")
        headroom: tuple[float | None, str | None] = (None, None)
        if not inspected.metadata.is_uint8 and inspected.metadata.precision != "int8":
            headroom = _headroom(run, photos, rgb_range)
        results = {
            name: _image(run(batch_from_image(lr, rgb_range)), rgb_range)
            for name, lr in pictures.items()
        }
        margins = {name: resemblance_margin(results[name], lr) for name, lr in pictures.items()}
        found.append(Endurance(*headroom, margins, results))
    return Contrast(pictures, found[0], found[1] if len(found) > 1 else None)


def _headroom(
    run: Run, photos: Mapping[str, ImageArray], rgb_range: float
) -> tuple[float, str | None]:
    """Headroom over photographs, and the one that bears least."""
    held, weakest = len(GROWTHS) - 1, None
    for name, lr in photos.items():
        fails = partial(_fails, run, lr, rgb_range)
        if fails(held):  # else another photograph bears less
            held, weakest = bisect.bisect_left(range(held), 1, key=fails) - 1, name
            if held < 0:
                return 0.0, name
    return (math.inf if weakest is None else float(GROWTHS[held])), weakest


def _fails(run: Run, lr: ImageArray, rgb_range: float, index: int) -> bool:
    """True if the result for a photograph whose contrast has grown does not resemble it."""
    growth = np.float32(GROWTHS[index])
    batch = batch_from_image(lr, rgb_range)
    mean = batch.mean(axis=(2, 3), keepdims=True)
    sr = mean + (run(mean + growth * (batch - mean)) - mean) / growth
    return resemblance_margin(_image(sr, rgb_range), lr) < -LARGEST_LOSS_DB


def _forms(inspected: InspectedFile) -> Iterator[tuple[str, Run]]:
    """The network as it is and, if it can be run so, without its limits."""
    network = inspected.source.network if inspected.source else None
    if network is not None:
        yield "as deployed", lambda lr: run_network(network, lr)
        if limits_of(network):
            free = without_limits(network)
            yield "without limits", lambda lr: run_network(free, lr)
        return
    metadata = inspected.metadata
    model = evaluated(inspected.path, metadata)
    deployed = run_graph(model, metadata)
    yield "as deployed", lambda lr: deployed(lr)[0]
    if metadata.limits:
        graph: ir.Model = ir.from_proto(model)
        remove_limits(graph.graph)
        unlimited = run_graph(ir.to_proto(graph), metadata)
        yield "without limits", lambda lr: unlimited(lr)[0]


def _image(sr: Batch, rgb_range: float) -> ImageArray:
    """Image of a batch; NaN becomes 0."""
    image: ImageArray = image_from_batch(np.nan_to_num(sr), rgb_range)
    return image


def _middle(image: ImageArray, side: int, upscale: int) -> ImageArray:
    """Square from the middle of a photograph, `side` px high and wide after reduction."""
    size = side * upscale
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return reduce(image[top : top + size, left : left + size], upscale)
