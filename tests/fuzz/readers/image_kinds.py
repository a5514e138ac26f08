"""What our own code reads of image files: kinds, chunks, segments, boxes, profiles."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyvips

from _support.photo_files import curve, parametric, profile_with
from adadm.runtime.images.decoding.limits import check_scans
from adadm.runtime.images.file_extras import read_extras
from adadm.runtime.images.file_kinds import kind_of
from adadm.runtime.images.tone_curves import find_tone_curves
from fuzz.image_mutations import mutate_image
from fuzz.image_seeds import images
from fuzz.mutations import mutate_bytes
from fuzz.reader import Fault, Files, Reader

_PROFILES = {
    "curve": profile_with(curve()),
    "parametric": profile_with(parametric(0, 1.0)),
    "three": profile_with(parametric(3, 1.0, 1.0, 0.0, 1.0, 0.0)),
}


def _seeds() -> Mapping[str, Files]:
    profiles = list(_PROFILES.values())
    return {
        name: {"image": content, "profile": profiles[place % len(profiles)]}
        for place, (name, content) in enumerate(images().items())
    }


def _mutate(files: Files, rng: random.Random) -> Files:
    return {
        "image": mutate_image(files["image"], rng),
        "profile": mutate_bytes(files["profile"], rng),
    }


def _read(folder: Path, seed: Files) -> None:
    path = folder / "image"
    kind = kind_of(path)
    check_scans(path, io.BytesIO(path.read_bytes()))
    extras = read_extras(path, kind, _undecoded())
    extras.colours(has_srgb_curve=False)
    profile = (folder / "profile").read_bytes()
    for given, channels, dtype in (
        (profile, 3, np.uint8),
        (profile, 1, np.uint16),
        (None, 3, np.uint16),
    ):
        curves = find_tone_curves(given, extras.png_chunks, extras.cicp, dtype, channels)
        if curves is not None and not (
            curves.forward.shape == (channels, np.iinfo(dtype).max + 1)
            and curves.back.shape == (channels, 1 << 16)
            and np.all(np.diff(curves.forward.astype(int)) >= 0)
        ):
            raise Fault("a curve that is none")


def _undecoded() -> pyvips.Image:
    """An image without metadata, since libvips is fed by another reader."""
    return pyvips.Image.black(26, 20)


READER = Reader(_seeds, _mutate, _read)
