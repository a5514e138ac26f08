"""What people ask of `adadm upscale` first: sizes, factors, self-ensemble, lists, previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from PIL import Image

from _support.exports import exported
from _support.pictures import files, smooth
from adadm.export import Options
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime import Upscaler, upscale
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import Pixels, enlarge, reduce
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.upscaling.tile_plan import Tile


def adadm(*arguments: str | Path) -> int:
    options = [str(argument) for argument in arguments]
    return run("adadm upscale", upscale.main, [*options, "--backend", "cpu"])


def save(path: Path, image: npt.NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def pixels(path: Path) -> npt.NDArray[np.int64]:
    with Image.open(path) as opened:
        return np.asarray(opened).astype(np.int64)


def reduced(image: Pixels, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    planes = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
        for c in range(image.shape[2])
    ]
    stacked = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    values: npt.NDArray[np.int64] = np.clip(np.rint(stacked), 0, 255).astype(np.int64)
    return values


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ("--scale 1.5", (60, 45)),
        ("--size 50x50", (50, 38)),
        ("--size 64x48", (64, 48)),
        ("--size 70x", (70, 52)),
        ("--size x33", (44, 33)),
        ("--scale 2", (80, 60)),
    ],
)
def test_a_result_of_another_size_is_the_network_s_reduced(
    tmp_path: Path, options: str, size: tuple[int, int]
) -> None:
    image = smooth(30, 40)
    save(tmp_path / "a.png", image)
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "b.png", *options.split()) == 0
    with Upscaler("x2", backend="cpu", tile="off") as opened:
        expected = reduced(opened.upscale(image), size)
    found = pixels(tmp_path / "b.png")
    assert found.shape == (size[1], size[0], 3)
    assert np.abs(found - expected).max() <= 1


def test_the_bundled_model_is_the_smallest_that_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", smooth(16, 20))
    for scale, code in (("3", 0), ("4.1", 1)):
        target = tmp_path / f"{scale}.png"
        assert adadm(tmp_path / "a.png", "-o", target, "--scale", scale) == code
    assert pixels(tmp_path / "3.png").shape == (48, 60, 3)
    assert "at most 4 times 20x16 px, the model's factor, got 4.1" in capsys.readouterr().err
    for options in ("--size 1x", "--size 640x480 --scale 2", "--scale 0", "--size 12"):
        if options != "--size 1x":
            with pytest.raises(SystemExit):
                adadm(tmp_path / "a.png", "-o", tmp_path / "c.png", *options.split())
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "c.png", "--size", "x1080") == 1
    assert "got 67.5 times; give a smaller --size or --scale" in capsys.readouterr().err
    assert files(tmp_path) == ["3.png", "a.png"]
    save(tmp_path / "large.png", smooth(30, 40))
    inputs = (tmp_path / "a.png", tmp_path / "large.png")
    assert adadm(*inputs, "-o", tmp_path / "fitted", "--size", "60x60") == 0
    assert pixels(tmp_path / "fitted" / "a.png").shape == (48, 60, 3)  # by 3
    assert pixels(tmp_path / "fitted" / "large.png").shape == (45, 60, 3)  # by 1.5


def test_the_self_ensemble_is_the_mean_of_the_eight_turns(tmp_path: Path) -> None:
    hr = photographs(("chelsea",))["chelsea"][60:140, 90:186]
    lr = reduce(hr, 2)

    def quality(sr: Pixels) -> float:
        return psnr_y(sr.astype(np.uint8), hr, 2)

    with Upscaler("x2", backend="cpu", tile="off", self_ensemble=True) as opened:
        found = opened.upscale(lr)
    with Upscaler("x2", backend="cpu", tile="off") as opened:
        once = opened.upscale(lr)
        fine = lr.astype(np.uint16) * 257
        turned = [
            np.rot90(opened.upscale(np.ascontiguousarray(np.rot90(seen, turns))), -turns)
            for seen in (fine, fine[:, ::-1])
            for turns in range(4)
        ]
    upright = [*turned[:4], *(result[:, ::-1] for result in turned[4:])]
    assert np.abs(np.mean(upright, axis=0) / 257 - found).max() < 0.51
    assert quality(found) > quality(once)
    save(tmp_path / "a.png", lr)
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "b.png", "--self-ensemble") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), found)


def test_a_model_of_one_size_takes_no_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = exported("edsr", 2, Options(io="uint8", static=(1, 16, 20)))[1]
    onnx.save(proto, tmp_path / "net.onnx")
    save(tmp_path / "a.png", smooth(16, 20))
    command = (tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", tmp_path / "net.onnx")
    assert adadm(*command, "--self-ensemble", "--accept") == 1
    assert "takes 20x16 px, but not 16x20; export it without" in capsys.readouterr().err


@pytest.mark.slow
def test_the_self_ensemble_in_tiles_is_that_of_the_whole_image() -> None:
    image = photographs(("coffee",))["coffee"][100:156, 200:280].astype(np.uint16) * 257
    tiles: list[Tile] = ["off", 32]
    results = []
    for tile in tiles:
        with Upscaler("x2", backend="cpu", tile=tile, self_ensemble=True) as opened:
            results.append(opened.upscale(image).astype(np.int64))
    assert np.abs(results[0] - results[1]).max() <= 0.5 * 257


def test_a_dry_run_says_all_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/b.jpg", "out/b.jpg"):
        save(Path(name), smooth(16, 20))
    Path("in/c.png").write_text("no image")
    Path("in/d.txt").write_text("")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = ("--dry-run", "--scale", "1.5", "--compare", "seen")
    assert adadm("in", "-o", "out", *options) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "in/a.png 20x16 -> out/a.png 30x24, compared in seen/a.png.png",
        "in/b.jpg 20x16 -> out/b.jpg exists",
        "out: 1 to do, 1 skipped (they exist; --overwrite replaces them), 1 failed",
        "passed over: 1 .txt",
    ]
    assert "in/c.png: not a PNG" in captured.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_previews_show_both(tmp_path: Path) -> None:
    image = smooth(24, 30)
    save(tmp_path / "in" / "a.png", image)
    save(tmp_path / "in" / "grey.png", smooth(24, 30, 1))
    save(tmp_path / "in" / "alpha.png", np.dstack([image, np.full((24, 30), 0, np.uint8)]))
    options = ("-o", tmp_path / "out", "--compare", tmp_path / "seen")
    assert adadm(tmp_path / "in", *options) == 0
    seen = pixels(tmp_path / "seen" / "a.png.png")
    assert seen.shape == (48, 60 + 8 + 60, 3)
    np.testing.assert_array_equal(seen[:, 68:], pixels(tmp_path / "out" / "a.png"))
    assert np.abs(seen[:, :60] - enlarge(image, 2))[3:-3, 3:-3].max() <= 3
    assert (pixels(tmp_path / "seen" / "alpha.png.png")[:, 68:] == 255).all()
    assert pixels(tmp_path / "seen" / "grey.png.png").shape == (48, 128, 3)
    (tmp_path / "seen" / "a.png.png").write_text("mine")
    assert adadm(tmp_path / "in" / "a.png", *options) == 0  # skipped
    assert (tmp_path / "seen" / "a.png.png").read_text() == "mine"


def test_lists_patterns_and_folders_without_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/sub/b.png", "c.png"):
        save(Path(name), smooth(9, 12))
    Path("files.txt").write_text("in/a.png\nc.p*\n")
    assert adadm("@files.txt", "-o", "out") == 0
    assert adadm("in", "-o", "flat", "--no-recursive") == 0
    assert [files(Path(folder)) for folder in ("out", "flat")] == [["a.png", "c.png"], ["a.png"]]
    assert adadm("@files.txt", "-o", "files.txt", "--overwrite") == 1
    assert adadm("nothing/*.png", "-o", "out") == 1
    assert "nothing/*.png: expected a pattern of existing files" in capsys.readouterr().err
    assert Path("files.txt").read_text() == "in/a.png\nc.p*\n"
