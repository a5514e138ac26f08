from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from PIL import Image

from _support.exports import exported
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.ranges import tensor_statistics
from adadm.calibration.ranges.tensor_statistics import collect
from adadm.export import Options
from adadm.export.proof.drawn_pictures import plain_pictures
from adadm.export.proof.pytorch import run_with_factors
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import batch_from_image
from adadm.runtime.progress import Progress

DRAWN_PX = (20, 24)


@pytest.fixture
def images(tmp_path: Path) -> CalibrationImages:
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (40 + 4 * index, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return CalibrationImages.of([tmp_path], 2)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return exported("edsr", 2, Options())[1]


def test_against_pytorch(model: onnx.ModelProto, images: CalibrationImages) -> None:
    network, _, _ = exported("edsr", 2, Options())
    seen: list[np.ndarray] = []
    network.root.get_submodule("head.0").register_forward_hook(
        lambda module, inputs, output: seen.append(output.numpy())
    )
    found = collect(model, images, 255, DRAWN_PX)
    factors = np.array(
        [run_with_factors(network, batch_from_image(p.lr, 255))[1] for p in images]
    ).reshape(3, -1)
    photographs, seen = seen[:], []
    means = np.mean([s.mean(axis=(0, 2, 3)) for s in photographs], axis=0)
    # The trunk is shifted by a constant a channel, which the mean shows.
    shift = found["head.0"].mean - means
    squares = np.mean([((s[0].T + shift).T ** 2).mean(axis=(1, 2)) for s in photographs], axis=0)
    np.testing.assert_allclose(found["head.0"].square, squares, rtol=1e-4)
    largest = np.max([np.abs((s[0].T + shift).T).max(axis=(1, 2)) for s in photographs], axis=0)
    assert (found["head.0"].largest >= largest * (1 - 1e-5)).all()
    for index in range(factors.shape[1]):
        known = found[f"factor_{index}"]
        np.testing.assert_allclose(known.mean, factors[:, index].mean(), rtol=1e-4)
    assert found["lr"].peak >= max(p.lr.max() for p in images)
    assert found["lr"].rms == pytest.approx(
        np.sqrt(np.mean([np.mean(p.lr.astype(float) ** 2) for p in images]))
    )


def test_drawn_inputs_widen_the_ranges_but_move_no_mean(
    model: onnx.ModelProto, images: CalibrationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = collect(model, images, 255, DRAWN_PX)
    monkeypatch.setattr(tensor_statistics, "plain_pictures", lambda *size: {})
    alone = collect(model, images, 255, DRAWN_PX)
    assert any((both[name].largest > alone[name].largest).any() for name in both)
    for name, known in both.items():
        assert (known.largest >= alone[name].largest).all()
        np.testing.assert_array_equal(known.mean, alone[name].mean)


def test_interrupted_it_resumes_and_gives_the_same_bytes(
    model: onnx.ModelProto, images: CalibrationImages, tmp_path: Path
) -> None:
    whole = collect(model, images, 255, DRAWN_PX, tmp_path / "whole")
    (expected,) = (tmp_path / "whole").iterdir()
    stop_at = len(plain_pictures(*DRAWN_PX)) + 1

    class Stop(Progress):
        def advance(self, done: int, total: int, note: str = "") -> None:
            if done == stop_at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, images, 255, DRAWN_PX, tmp_path / "cut", progress=Stop())
    progress = Mock(spec=Progress)
    resumed = collect(model, images, 255, DRAWN_PX, tmp_path / "cut", progress=progress)
    steps = progress.advance.call_args_list
    assert [step.args[0] for step in steps] == [stop_at, stop_at + 1, stop_at + 2]
    (found,) = (tmp_path / "cut").iterdir()
    assert (found.name, found.read_bytes()) == (expected.name, expected.read_bytes())
    for name, known in whole.items():
        np.testing.assert_array_equal(known.largest, resumed[name].largest)


@pytest.mark.parametrize("number", [999.0, 1, None, "1", [], -3.5])
def test_a_changed_number_in_the_cache_is_measured_again(
    model: onnx.ModelProto, images: CalibrationImages, tmp_path: Path, number: Any
) -> None:
    first = collect(model, images, 255, DRAWN_PX, tmp_path)
    (file,) = tmp_path.glob("*.json")
    record = json.loads(file.read_text())
    assert record["content"]["done"] == len(plain_pictures(*DRAWN_PX)) + 3
    record["content"]["tensors"]["lr"]["largest"][0] = number
    file.write_text(json.dumps(record))
    progress = Mock(Progress)
    again = collect(model, images, 255, DRAWN_PX, tmp_path, progress=progress)
    for name, known in first.items():
        np.testing.assert_array_equal(known.largest, again[name].largest)
    (said,) = progress.message.call_args_list
    assert f"begun anew: {file}: it is not as it was written" in said.args[0]


def test_what_the_cache_has_is_not_measured_again(
    model: onnx.ModelProto, images: CalibrationImages, tmp_path: Path
) -> None:
    first = collect(model, images, 255, DRAWN_PX, tmp_path)
    progress = Mock(Progress)
    again = collect(model, images, 255, DRAWN_PX, tmp_path, progress=progress)
    assert [call.args[0] for call in progress.advance.call_args_list] == [
        len(plain_pictures(*DRAWN_PX)) + 3
    ]
    for name, known in first.items():
        np.testing.assert_array_equal(known.square, again[name].square)


def test_another_model_or_other_images_are_another_file(
    model: onnx.ModelProto, images: CalibrationImages, tmp_path: Path
) -> None:
    collect(model, images, 255, DRAWN_PX, tmp_path / "cache")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    raw = bytearray(changed.graph.initializer[0].raw_data)
    raw[0] ^= 1
    changed.graph.initializer[0].raw_data = bytes(raw)
    collect(changed, images, 255, DRAWN_PX, tmp_path / "cache")
    collect(model, CalibrationImages.of([tmp_path], 2, count=2), 255, DRAWN_PX, tmp_path / "cache")
    collect(model, images, 255, (22, 24), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_network_that_diverges_is_named(
    model: onnx.ModelProto, images: CalibrationImages
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    for initializer in broken.graph.initializer:
        if initializer.name.endswith("head.0.bias"):
            nothing = np.full(initializer.dims, np.nan, np.float32)
            initializer.raw_data = nothing.tobytes()
    with pytest.raises(CalibrationError, match=r"\.png: the output of the float32 model is not"):
        collect(broken, images, 255, DRAWN_PX)


def test_a_cache_that_cannot_be_kept_is_given_up(
    model: onnx.ModelProto, images: CalibrationImages, tmp_path: Path
) -> None:
    progress = Mock(Progress)
    (tmp_path / "c").write_text("a file")
    assert collect(model, images, 255, DRAWN_PX, tmp_path / "c" / "below", progress=progress)
    (said,) = progress.message.call_args_list
    assert "the cache is not kept, and the next run measures again: " in said.args[0]
