from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from _support.scripts import load_script
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import read_image

demo = load_script("demo")


def test_the_demo_draws_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo.py", demo.main, ["--upscale", "4", "-o", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "parity: largest error" in output
    row = r"^ +\w+ +[\d.]+ +[\d.]+ +([+-][\d.]+) *$"
    gains = [float(gain) for gain in re.findall(row, output, re.M)]
    assert len(gains) == 4
    assert min(gains) > 0.3

    picture = read_image(tmp_path / "comparison_x4.png").astype(np.float64)
    assert picture.shape == (4 * (320 + 28) + 3 * 8, 4 * 320 + 3 * 8, 3)
    panels = [picture[28 : 28 + 320, left : left + 320] for left in range(0, 1312, 328)]
    original = panels[3]
    errors = [np.mean((panel - original) ** 2) for panel in panels[:3]]
    assert errors[0] > errors[1] > errors[2], "low resolution, bicubic and ours, best last"

    height, width = photographs(("coffee",))["coffee"].shape[:2]
    assert read_image(tmp_path / "coffee_x4.png").shape == (height, width, 3)
