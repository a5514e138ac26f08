"""Photographs of calibration, certificates and training, which Pillow reads."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from adadm.calibration.quality.photographs import CalibrationImages
from adadm.runtime.images.arrays import read_image
from fuzz.image_mutations import mutate_image
from fuzz.image_seeds import images
from fuzz.reader import Fault, Files, Reader

_MOST_PX = 2_000_000
"""Of Pillow, so that cases take no time of their own."""


def _seeds() -> Mapping[str, Files]:
    return {
        name: {f"photo{Path(name).suffix}": content}
        for name, content in images().items()
        if not name.endswith(".avif")
    }


def _mutate(files: Files, rng: random.Random) -> Files:
    return {name: mutate_image(content, rng) for name, content in files.items()}


def _read(folder: Path, seed: Files) -> None:
    (path,) = folder.iterdir()
    with patch.object(Image, "MAX_IMAGE_PIXELS", _MOST_PX):
        image = read_image(path)
        CalibrationImages.of([path], upscale=1)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise Fault(f"an array of {image.dtype} {image.shape}")


READER = Reader(_seeds, _mutate, _read)
