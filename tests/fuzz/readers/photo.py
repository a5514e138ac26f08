"""Photographs of `adadm upscale`: what is read is written again as a PNG, and must not change."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adadm.runtime.images.photo_reader import Photo, open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from fuzz.image_mutations import mutate_image
from fuzz.image_seeds import images
from fuzz.reader import Fault, Files, Reader

_LARGEST_MEGAPIXELS = 4.0
"""So that cases take no time of their own; the limit is that of `--max-megapixels`."""


def _seeds() -> Mapping[str, Files]:
    return {name: {"photo": content} for name, content in images().items()}


def _mutate(files: Files, rng: random.Random) -> Files:
    return {"photo": mutate_image(files["photo"], rng)}


def _read(folder: Path, seed: Files) -> None:
    photo = open_photo(folder / "photo", _LARGEST_MEGAPIXELS)
    pixels = _pixels(photo)
    for suffix in (".png", ".jpg"):  # with what metadata it has
        with PhotoWriter(folder / f"again{suffix}", photo, upscale=1) as writer:
            writer.write(pixels)
    again = open_photo(folder / "again.png", _LARGEST_MEGAPIXELS)
    if again.curves is None and not np.array_equal(_pixels(again), pixels):
        raise Fault("its pixels changed")


def _pixels(photo: Photo) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.uint16]]:
    whole = (0, 0, photo.height, photo.width)
    colour = photo.colour(*whole)
    channels = [colour[..., :1] if photo.is_grey else colour]
    if photo.has_alpha:
        channels.append(photo.alpha(*whole)[..., :1])
    return np.concatenate(channels, axis=2)


READER = Reader(_seeds, _mutate, _read, starts_processes=True)
