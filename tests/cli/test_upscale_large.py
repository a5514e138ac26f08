"""Large images and many images: memory, time per megapixel, what files cost beside inference."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
from PIL import Image

from _support.networks import random_edsr
from adadm.export import save_checkpoint, to_onnx
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime import Upscaler
from adadm.runtime.images.arrays import batch_from_image
from adadm.runtime.upscaling.batch import upscale_files
from adadm.runtime.upscaling.jobs import Job

pytestmark = pytest.mark.slow

# Prints the peak of its own process, in bytes, and seconds without loading the models.
MEASURED = """
import json, sys, time
from pathlib import Path
import numpy as np
from adadm.runtime import Upscaler
from adadm.runtime.upscaling.batch import upscale_files
from adadm.runtime.upscaling.jobs import Job
model, source, target, options = sys.argv[1:]
with Upscaler(model, backend="cpu", accept=True, **json.loads(options)) as upscaler:
    upscaler.upscale(np.zeros((300, 300, 3), np.uint8))
    started = time.perf_counter()
    outcome = upscale_files(upscaler, [Job(Path(source), Path(target))])
    seconds = time.perf_counter() - started
assert not outcome.failed, outcome.failed
status = Path("/proc/self/status").read_text()
print(json.dumps([int(status.split("VmHWM:")[1].split()[0]) * 1024, seconds]))
"""


@pytest.fixture(scope="module")
def smallest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smallest")
    save_checkpoint(folder / "small.safetensors", random_edsr(2, 1, 4))
    to_onnx.main([str(folder / "small.safetensors"), "--stats", "external"])
    return folder / "small.onnx"


def photograph(path: Path, width: int, height: int) -> Path:
    """Photographs side by side, with noise, so that no encoder has it easy."""
    tile = pyvips.Image.new_from_array(photographs(("astronaut",))["astronaut"])
    whole = tile.replicate(-(-width // tile.width), -(-height // tile.height))
    noisy = whole.crop(0, 0, width, height) + pyvips.Image.gaussnoise(
        width, height, sigma=6, mean=0
    )
    noisy.cast("uchar").write_to_file(str(path), compression=1)
    return path


def run(model: Path, source: Path, target: Path, **options: object) -> tuple[int, float]:
    paths = [str(path) for path in (model, source, target)]
    command = [sys.executable, "-c", MEASURED, *paths, json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    peak, seconds = json.loads(result.stdout)
    return peak, seconds


def test_96_megapixels_within_2_gib(smallest_model: Path, tmp_path: Path) -> None:
    """`memory_gib` holds: the model of the memory, the rows and the decoder are all in it."""
    source = photograph(tmp_path / "large.png", 12000, 8000)
    peak, _ = run(smallest_model, source, tmp_path / "larger.png", memory_gib=2)
    assert peak <= 2 * 2**30
    result = pyvips.Image.new_from_file(str(tmp_path / "larger.png"))
    assert (result.width, result.height) == (24000, 16000)


@pytest.mark.alone
def test_time_per_megapixel_is_the_same_from_1_to_100(smallest_model: Path, tmp_path: Path) -> None:
    per_megapixel = {}
    for width, height in ((1000, 1000), (3200, 3125), (10000, 10000)):
        source = photograph(tmp_path / f"{width}.png", width, height)
        repeats = 3 if width == 1000 else 1
        seconds = [
            run(smallest_model, source, tmp_path / f"{width}_{index}.png", tile=128)[1]
            for index in range(repeats)
        ]
        per_megapixel[width] = min(seconds) / (width * height / 1e6)
        source.unlink()
    print(per_megapixel)
    assert max(per_megapixel.values()) <= 1.3 * min(per_megapixel.values()), per_megapixel


@pytest.mark.alone
def test_files_cost_at_most_a_tenth(tmp_path: Path) -> None:
    """100 photographs from disc to disc, against the same arrays through the session alone."""
    crops: list[npt.NDArray[np.uint8]] = []
    for photo in photographs().values():
        for index in range(25):
            top, left = 2 * index % 40, 5 * index % 90
            crops.append(photo[top : top + 256, left : left + 320])
    jobs = []
    for index, crop in enumerate(crops):
        source = tmp_path / "in" / f"{index:03}.jpg"
        source.parent.mkdir(exist_ok=True)
        Image.fromarray(crop).save(source, quality=92)
        jobs.append(Job(source, tmp_path / "out" / source.name))
    with Upscaler("x2", backend="cpu") as upscaler:
        session = upscaler._variants.session("whole")
        feeds = [{"lr": batch_from_image(crop, 255)} for crop in crops]
        for feed in feeds[:5]:
            session.run(feed)
        inference_s = total_s = 0.0
        for start in range(0, 100, 20):  # in turns, because other work slows both
            started = time.perf_counter()
            for feed in feeds[start : start + 20]:
                session.run(feed)
            halfway = time.perf_counter()
            outcome = upscale_files(upscaler, jobs[start : start + 20])
            inference_s += halfway - started
            total_s += time.perf_counter() - halfway
            assert len(outcome.done) == 20
    print(inference_s / total_s)
    assert inference_s / total_s >= 0.9
