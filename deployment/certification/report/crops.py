"""Crops of photographs for a report, and their differences."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adadm.runtime.images.arrays import ImageArray, encoded

_WIDEST_PX = {"wide": 496, "narrow": 288}
"""Largest width of an enlarged crop, px: two side by side on the page; one on a telephone."""

_VISIBLE_LEVELS = 64.0  # a quarter of white, on mid-grey

_MID_GREY = 128


@dataclass(frozen=True)
class Crop:
    """A crop of a photograph for the page.

    Attributes:
        left, top: position of the crop, px of sr.
        reason: reason to show it.
        original: None without originals.
        reference, found: outputs of the reference and of the model; all of one size.
    """

    photograph: str
    left: int
    top: int
    reason: str
    original: ImageArray | None
    reference: ImageArray
    found: ImageArray


def amplification_of(crops: Sequence[Crop]) -> int:
    """Power of two that makes the usual difference visible.

    It follows from the root mean square of all differences, which a few large ones do not dominate.
    """
    squares = [float(d) ** 2 for crop in crops for d in _difference(crop).flat if d]
    if not squares:
        return 1
    usual = math.sqrt(math.fsum(squares) / len(squares))
    return int(2 ** max(0, math.floor(math.log2(_VISIBLE_LEVELS / usual))))


def _difference(crop: Crop) -> np.ndarray[Any, np.dtype[np.int16]]:
    return crop.found.astype(np.int16) - crop.reference


def render_crop(crop: Crop, amplification: int) -> dict[str, Any]:
    """Values of a crop for the template; views by name, without those that do not exist."""
    amplified = np.clip(_MID_GREY + amplification * _difference(crop), 0, 255).astype(np.uint8)
    height, width = crop.found.shape[:2]
    views = {
        "original": crop.original,
        "reference": crop.reference,
        "model": crop.found,
        "difference": amplified,
    }
    return {
        **vars(crop),
        "width": width,
        "height": height,
        "enlarged": {name: max(1, widest // width) for name, widest in _WIDEST_PX.items()},
        "views": {name: _data_uri(view) for name, view in views.items() if view is not None},
    }


def _data_uri(image: ImageArray) -> str:
    content = encoded(image, ".webp", lossless=True, quality=100)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
