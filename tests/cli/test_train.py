from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _support.bad_pictures import BAD
from _support.scripts import load_script
from _support.slow import slow_unless
from adadm.export import load_checkpoint
from adadm.runtime.cli import run as run_verb
from adadm.runtime.images.arrays import (
    batch_from_image,
    image_from_batch,
    read_image,
    reduce,
    write_image,
)
from adadm.runtime.images.metrics import psnr_y
from training.crops import Crops

train = load_script("train")
RCAN = "_support.custom_networks:RCANLike"
SMALL = ["--set", "blocks=1", "features=4"]
COURSE = ["--patch", "8", "--batch", "2", "--warmup", "2"]
DRAWN = ["--drawn", "0.5", "--drawn-pictures", "4", "--freeze-norm", "0.5"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(3):
        smooth = np.cumsum(rng.normal(0, 9, (40, 44, 3)), axis=index % 2) + 120
        write_image(tmp_path / "photos" / f"{index}.png", np.clip(smooth, 0, 255).astype(np.uint8))
    return tmp_path / "photos"


def run(photographs: Path, output: Path, *more: str) -> int:
    arguments = ["--images", str(photographs), "--validation", str(photographs / "0.png")]
    arguments += ["-o", str(output), "--steps", "6", "--device", "cpu", *COURSE]
    arguments += [*more] if "--set" in more else [*SMALL, *more]
    return run_verb("train.py", train.main, arguments)


def test_an_interrupted_run_ends_like_one_that_was_not(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(photographs, tmp_path / "whole.safetensors", *DRAWN) == 0

    original, calls = Crops.cut, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(Crops, "cut", interrupted)
    parts = tmp_path / "parts.safetensors"
    assert run(photographs, parts, "--save-every-s", "0", *DRAWN) == 1
    assert not parts.exists()
    assert parts.with_suffix(".resume").exists()
    monkeypatch.setattr(Crops, "cut", original)
    assert run(photographs, parts, "--save-every-s", "0", *DRAWN) == 0
    assert not parts.with_suffix(".resume").exists()

    whole, resumed = (
        load_checkpoint(tmp_path / f"{name}.safetensors").network.state_dict()
        for name in ("whole", "parts")
    )
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_bad_pictures_are_left_out(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in BAD.items():
        (photographs / name).write_bytes(content)
    assert run(photographs, tmp_path / "a.safetensors") == 0
    said = capsys.readouterr().err
    for name in BAD:
        assert said.count(f"left out: {photographs / name}") == 1, name
    for path in photographs.glob("[0-9].png"):
        path.write_bytes(BAD["cut.png"])
    assert run(photographs, tmp_path / "b.safetensors") == 1
    assert "train.py: photographs: none of 16 is usable" in capsys.readouterr().err


def test_training_lowers_the_loss_and_records_itself(photographs: Path, tmp_path: Path) -> None:
    """From a network that knows nothing to one that knows the mean colour, at least."""
    output = tmp_path / "trained.safetensors"
    assert run(photographs, output, "--steps", "60", "--learning-rate", "0.01") == 0
    trained = load_checkpoint(output)
    assert trained.guesses == {}
    hr = read_image(photographs / "1.png")
    lr = torch.from_numpy(batch_from_image(reduce(hr, 2), 255))
    fresh = train.ARCHITECTURES["edsr"](upscale=2, blocks=1, features=4)
    before, after = (
        psnr_y(image_from_batch(network.eval()(lr).detach().numpy(), 255), hr, 2)
        for network in (fresh, trained.network)
    )
    assert after > before + 5


@pytest.mark.parametrize(
    ("arch", "size"),
    slow_unless(
        lambda arch, _: arch == "nlsn",
        [
            ("rdn", ["blocks=1", "layers=1", "growth=2", "features=4"]),
            ("nlsn", ["blocks=1", "features=8", "chunk_size=16", "n_hashes=1"]),
            (RCAN, ["rgb_range=255"]),
        ],
    ),
)
def test_every_architecture_trains(
    arch: str, size: list[str], photographs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "trained.safetensors"
    assert run(photographs, output, "--arch", arch, "--set", *size) == 0
    trained = load_checkpoint(output, arch)
    assert trained.guesses == {}
    assert trained.network.architecture == arch


def test_larger_factors_start_from_smaller_ones(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x2, x4 = tmp_path / "x2.safetensors", tmp_path / "x4.safetensors"
    assert run(photographs, x2) == 0
    assert run(photographs, x4, "--upscale", "4", "--start-from", str(x2)) == 0
    assert load_checkpoint(x4).network.upscale == 4
    assert "tensors from" in capsys.readouterr().err


def test_mistakes_are_said(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photographs.parent)
    Path("file").touch()
    for more, said in (
        ("--images nowhere", "nowhere: no such file or folder"),
        ("--patch 64", "at least 64x64 px after reduction"),
        ("--set depth=3", "edsr has no hyper-parameter depth; expected one of blocks, "),
        (
            f"--arch {RCAN} --upscale 3 --set rgb_range=255",
            f"expected --upscale 2 of {RCAN}, got 3",
        ),
        ("-o file/x.safetensors", "file"),
    ):
        assert run(photographs, Path("x.safetensors"), *more.split()) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(photographs, Path("x.pt"))


def test_a_run_with_other_settings_does_not_go_on(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_validate", stopped)
    output = tmp_path / "x.safetensors"
    assert run(photographs, output, "--save-every-s", "0", "--validate-every", "3") == 1
    assert run(photographs, output, "--upscale", "3") == 1
    message = capsys.readouterr().err
    assert "x.resume is of another run: expected upscale 3, got 2" in message
    output.with_suffix(".resume").write_bytes(b"PK\x03\x04 damaged")
    assert run(photographs, output) == 1
    assert "x.resume is damaged, " in capsys.readouterr().err
