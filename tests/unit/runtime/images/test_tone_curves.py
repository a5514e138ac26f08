"""Files that are linear in light, or not: what the network sees, and what is written back."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from _support.photo_files import (
    curve,
    grey_profile,
    light_of,
    parametric,
    photograph,
    png_with,
    profile_with,
)
from adadm.runtime.images.photo_reader import open_photo
from adadm.runtime.images.photo_writer import PhotoWriter
from adadm.runtime.images.tone_curves import find_tone_curves

LINE = [0.0, 0.25, 0.5, 0.75, 1.0]
SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

# A profile, and whether it is converted.
PROFILES = [
    ("identity", profile_with(curve()), True),
    ("gamma 1.0", profile_with(curve(gamma=1.0)), True),
    ("gamma 1.25", profile_with(curve(gamma=1.25)), True),
    ("table", profile_with(curve(points=LINE)), True),
    ("parametric 0", profile_with(parametric(0, 1.0)), True),
    ("parametric 1", profile_with(parametric(1, 1.0, 1.0, 0.0)), True),
    ("parametric 2", profile_with(parametric(2, 1.0, 1.0, 0.0, 0.0)), True),
    ("parametric 4", profile_with(parametric(4, 1.0, 1.0, 0.0, 1.0, 0.5, 0.0, 0.0)), True),
    ("one channel", profile_with(parametric(3, *SRGB), rTRC=curve()), True),
    ("grey", grey_profile(curve()), True),
    ("sRGB", profile_with(parametric(3, *SRGB)), False),
    ("AdobeRGB", profile_with(curve(gamma=2.2)), False),
    ("ProPhoto", profile_with(curve(gamma=1.8)), False),
    ("gamma 2.6", profile_with(curve(gamma=2.6)), False),
    ("BT.709", profile_with(parametric(3, 1 / 0.45, 0.91, 0.09, 1 / 4.5, 0.081)), False),
    ("grey 2.2", grey_profile(curve(gamma=2.2)), False),
    ("lightness", grey_profile(curve(), b"Lab "), False),
    ("falling", profile_with(curve(points=LINE[::-1])), False),
    ("unknown type", profile_with(b"mft2" + bytes(40)), False),
    ("type 9", profile_with(parametric(9)), False),
    ("division by 0", profile_with(parametric(1, 1.0, 0.0, 0.0)), False),
    ("negative gamma", profile_with(parametric(0, -1.0)), False),
    ("cut", profile_with(curve())[:140], False),
    ("no profile", b"no profile", False),
    ("empty", b"", False),
]


@pytest.mark.parametrize(
    ("profile", "is_converted"), [row[1:] for row in PROFILES], ids=[row[0] for row in PROFILES]
)
def test_only_what_is_far_from_srgb_is_converted(profile: bytes, is_converted: bool) -> None:
    channels = 1 if profile[16:20] == b"GRAY" else 3
    for dtype in (np.uint8, np.uint16):
        found = find_tone_curves(profile, {}, None, dtype=dtype, channels=channels)
        assert (found is not None) == is_converted
        if found is not None:
            assert found.forward.shape == (channels, np.iinfo(dtype).max + 1)


LINEAR_GAMA = {b"gAMA": struct.pack(">I", 100_000)}


@pytest.mark.parametrize(
    ("profile", "chunks", "cicp", "is_converted"),
    [
        (None, LINEAR_GAMA, None, True),
        (None, {b"gAMA": struct.pack(">I", 45455)}, None, False),
        (None, {b"gAMA": struct.pack(">I", 0)}, None, False),
        (None, {b"gAMA": b"\0"}, None, False),
        (None, {**LINEAR_GAMA, b"sRGB": b"\0"}, None, False),
        (profile_with(curve(gamma=2.2)), LINEAR_GAMA, None, False),
        (None, {}, (9, 8), True),
        (None, LINEAR_GAMA, (9, 16), False),
        (profile_with(curve()), {}, (1, 13), False),
    ],
)
def test_names_of_the_curve_precede_each_other_as_in_png(
    profile: bytes | None,
    chunks: dict[bytes, bytes],
    cicp: tuple[int, int] | None,
    is_converted: bool,
) -> None:
    found = find_tone_curves(profile, chunks, cicp, dtype=np.uint8, channels=3)
    assert (found is not None) == is_converted


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_linear_file_is_seen_as_srgb_and_written_as_it_was(
    tmp_path: Path, channels: int, suffix: str, bits: int
) -> None:
    white = 2**bits - 1
    photo_values = np.concatenate([photograph(), photograph()[::-1, :, :1]], axis=2)
    values = photo_values[..., [[0], [0, 3], [0, 1, 2], [0, 1, 2, 3]][channels - 1]] / 255
    values[..., : min(3, channels)] = light_of(values[..., : min(3, channels)])
    pixels = np.rint(white * values).astype(np.uint8 if bits == 8 else np.uint16)
    kind = {1: {8: "b-w", 16: "grey16"}, 3: {8: "srgb", 16: "rgb16"}}[1 if channels < 3 else 3]
    image = pyvips.Image.new_from_array(pixels).copy(interpretation=kind[bits])
    profile = grey_profile(curve()) if channels < 3 else profile_with(curve())
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    image.write_to_file(str(tmp_path / f"a{suffix}"))

    photo = open_photo(tmp_path / f"a{suffix}")
    assert photo.dtype == np.uint16
    rows = photo.colour(0, 0, photo.height, photo.width)
    # what was sRGB before it was made linear and rounded to levels, which are wide in the dark
    seen = rows.astype(float) / 65535
    assert np.abs(light_of(seen)[..., 0] - values[..., 0]).max() < 0.6 / white + 1e-4
    colour = rows[..., : 1 if channels < 3 else 3]
    if photo.has_alpha:
        alpha = photo.alpha(0, 0, photo.height, photo.width)[..., :1]
        np.testing.assert_array_equal(alpha, pixels[..., -1:].astype(np.uint16) * (65535 // white))
        colour = np.concatenate([colour, alpha], axis=2)
    with PhotoWriter(tmp_path / f"b{suffix}", photo, upscale=1) as writer:
        writer.write(colour)
    written = pyvips.Image.new_from_file(str(tmp_path / f"b{suffix}"))
    found = written.numpy().reshape(pixels.shape)
    assert found.dtype == pixels.dtype
    # of 16 bits, sRGB's curve has fewer levels near white
    assert np.abs(found.astype(int) - pixels).max() <= (0 if bits == 8 else 2)
    assert written.get("icc-profile-data") == profile


def test_a_linear_png_keeps_its_gamma_and_other_formats_get_srgb(tmp_path: Path) -> None:
    png_with((b"gAMA", struct.pack(">I", 100_000)))(tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png")
    for name in ("b.png", "b.tif", "b.bmp"):
        with PhotoWriter(tmp_path / name, photo, upscale=1) as writer:
            writer.write(photo.colour(0, 0, photo.height, photo.width))
    with Image.open(tmp_path / "b.png") as written:
        assert written.info["gamma"] == 1.0
        np.testing.assert_array_equal(np.asarray(written), photograph())
    for name in ("b.tif", "b.bmp"):
        with Image.open(tmp_path / name) as written:
            light = light_of(np.asarray(written) / 255)
        # near white, half a level of sRGB is 1.14 levels of light
        assert np.abs(light - photograph() / 255).max() < 1.2 / 255
