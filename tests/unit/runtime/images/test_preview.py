"""A source beside its result, as one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adadm.runtime.images.preview import write_preview


@pytest.mark.parametrize("profile", [None, b"no profile" * 20], ids=["plain", "damaged profile"])
def test_a_preview_has_the_enlarged_source_and_the_result(
    tmp_path: Path, profile: bytes | None
) -> None:
    """Alpha is over white; a profile that cannot be read has no say."""
    for name, side, level in (("source", 8, 40), ("result", 16, 200)):
        image = np.full((side, side, 4), level, np.uint8)
        image[..., 3] = 255 * (np.arange(side) < side // 2)
        Image.fromarray(image).save(tmp_path / f"{name}.png", icc_profile=profile)
    write_preview(tmp_path / "both.png", tmp_path / "source.png", tmp_path / "result.png")
    found = np.asarray(Image.open(tmp_path / "both.png"))
    gap = found.shape[1] - 2 * 16
    assert found.shape == (16, 32 + gap, 3) and gap > 0
    assert (found[:, :4] == 40).all() and (found[:, 12:16] == 255).all()
    assert (found[:, 16 + gap : 24 + gap] == 200).all() and (found[:, 24 + gap :] == 255).all()
