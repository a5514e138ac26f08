"""`adadm upscale` as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import pyvips
from PIL import Image
from scipy import ndimage

from _support.exports import exported_tiles
from _support.file_size_limit import files_at_most
from _support.pictures import bomb_png, files, noise, smooth
from _support.waiting import finish, started
from _support.wrong_models import save_constant, save_runaway
from adadm.export import Options
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.runtime import Upscaler, upscale
from adadm.runtime.cli import run
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.sessions.session import Session, Timing

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("adadm")

Array = npt.NDArray[np.uint8]


def adadm(*arguments: str | Path, backend: str = "cpu") -> int:
    options = [str(argument) for argument in arguments]
    return run("adadm upscale", upscale.main, [*options, "--backend", backend])


def picture(height: int = 30, width: int = 42, channels: int = 3, seed: int = 0) -> Array:
    """Smooth with an edge, as the networks know it."""
    image = smooth(height, width, channels, seed)
    image[height // 2 :, width // 3 : width // 2] //= 3
    return image


def save(path: Path, image: Array, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)  # type: ignore[arg-type]
    return path


def pixels(path: Path, mode: str | None = None) -> npt.NDArray[np.int64]:
    with Image.open(path) as opened:
        assert mode in (None, opened.mode)
        return np.asarray(opened).astype(np.int64)


@cache
def opened(model: str) -> Upscaler:
    return Upscaler(model, backend="cpu", tile="off")


def expected(image: Array, model: str = "x2") -> npt.NDArray[np.int64]:
    return opened(model).upscale(image).astype(np.int64)


def test_folders_are_mirrored_with_any_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "my photos"
    names = ["a b.png", "ünï/cödé 写真 [1].png", "ünï/deep er/-o.bmp", "100%.tif"]
    for seed, name in enumerate(names):
        save(source / name, picture(seed=seed))
    (source / "notes.txt").write_text("")
    assert adadm(source, "-o", tmp_path / "out put") == 0
    assert files(tmp_path / "out put") == sorted(names)
    for seed, name in enumerate(names):
        np.testing.assert_array_equal(
            pixels(tmp_path / "out put" / name), expected(picture(seed=seed))
        )
    captured = capsys.readouterr()
    assert captured.out == (
        f"{tmp_path / 'out put'}: 4 done, 0 skipped, 0 failed\npassed over: 1 .txt\n"
    )
    assert captured.err == ""


def test_one_file_to_a_file_name_by_x4(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    target = tmp_path / "new" / "large.tif"
    assert adadm(tmp_path / "a.png", "-o", target, "--upscale", "4") == 0
    assert files(tmp_path) == ["a.png", "new/large.tif"]
    np.testing.assert_array_equal(pixels(target), expected(picture(), "x4"))


def test_auto_and_the_default_factor(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "out", backend="auto") == 0
    assert np.abs(pixels(tmp_path / "out" / "a.png") - expected(picture())).max() <= 1


def test_backends_are_timed_for_more_than_one_small_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = []

    def timed(sessions: Mapping[str, Session]) -> Timing:
        times.append(sorted(sessions))
        return Timing(160, 120, {"openvino": 0.5, "cpu": 0.25})

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("adadm.runtime.backends.time_backends", timed)
    one = save(tmp_path / "photos" / "a.png", picture())
    assert adadm(one, "-o", tmp_path / "one.png", backend="auto") == 0
    save(tmp_path / "photos" / "b.png", picture(seed=1))
    assert adadm(tmp_path / "photos", "-o", tmp_path / "none", "--dry-run", backend="auto") == 0
    assert times == [] and "timed" not in capsys.readouterr().err
    for folder in ("first", "second"):
        assert adadm(tmp_path / "photos", "-o", tmp_path / folder, backend="auto") == 0
        said = "backend cpu; timed here: cpu 250 ms, openvino 500 ms for 120x160 px"
        assert said in capsys.readouterr().err.replace("\n", " ")
    assert times == [["cpu", "openvino"]]


def test_the_format_of_all_results(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", picture())
    save(tmp_path / "in" / "sub" / "b.jpeg", picture(seed=1), quality=95)
    assert adadm(tmp_path / "in", "-o", tmp_path / "out", "--format", "webp") == 0
    assert files(tmp_path / "out") == ["a.webp", "sub/b.webp"]
    assert np.abs(pixels(tmp_path / "out" / "a.webp", "RGB") - expected(picture())).mean() < 3


def test_what_is_done_is_skipped_unless_it_is_to_be_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        save(tmp_path / "in" / f"{seed}.png", picture(10, 12, seed=seed))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_text("mine")
    for options, said in (
        ((), "1 done, 1 skipped (they exist; --overwrite replaces them), 0 failed"),
        (("--overwrite",), "2 done, 0 skipped, 0 failed"),
    ):
        assert adadm(tmp_path / "in", "-o", tmp_path / "out", *options) == 0
        assert said in capsys.readouterr().out


def test_bad_files_do_not_stop_the_rest_and_are_named_with_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    save(source / "good.png", picture(10, 12))
    (source / "bomb.png").write_bytes(bomb_png(60_000, 60_000))
    (source / "text.jpg").write_text("no image")
    assert adadm(source, tmp_path / "missing.png", "-o", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert files(tmp_path / "out") == ["good.png"]
    assert captured.out == f"{tmp_path / 'out'}: 1 done, 0 skipped, 3 failed\n"
    assert "Traceback" not in captured.err
    assert captured.err.partition("adadm upscale: 3 of 4 images failed:\n")[2] == (
        f"  {source / 'bomb.png'}: expected at most 500 megapixels, got 3600 (60000x60000); if "
        "you trust the file, allow more with --max-megapixels\n"
        f"  {source / 'text.jpg'}: not a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF image\n"
        f"  {tmp_path / 'missing.png'}: no such file\n"
    )


def test_what_cannot_be_begun_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("in/a.png"), picture())
    save(Path("also/a.png"), picture())
    Path("empty").mkdir()
    for arguments, message in (
        ("empty -o out", "empty: expected images (.apng, "),
        ("in -o in", "in/a.png would replace a source; give another -o"),
        ("in also -o out", "in/a.png and also/a.png would both become out/a.png; upscale"),
        ("in -o out --model net.onnx", "net.onnx: no such model; expected x2, x3, x4"),
        ("in/a.png -o x.gif", "got .gif"),
        ("in/a.png -o x.jpg --format png", "x.jpg contradicts --format png"),
    ):
        assert adadm(*arguments.split()) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("adadm upscale: ") and message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    for arguments, message in (
        ("in -o out --model x.onnx --upscale 4", "leave out --upscale or --model"),
        ("in -o out --memory 2 --tile off", "leave out --memory or --tile off"),
        ("in -o out --overlap -1", "expected an integer from 0 to 100000, got '-1'"),
        ("in -o out --accuracy 0", "expected a number above 0, at most 255, got '0'"),
        ("in -o out --memory nan", "expected a number above 0, at most 1000000, got 'nan'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            adadm(*arguments.split())
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert files(tmp_path) == ["also/a.png", "in/a.png"]


def test_a_full_disk_fails_what_does_not_fit_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a large.png", noise(0, 120, 120, 3))
    save(tmp_path / "in" / "b small.png", picture(10, 12))
    with files_at_most(20_000):
        assert adadm(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert files(tmp_path / "out") == ["b small.png"]
    captured = capsys.readouterr()
    assert "1 done, 0 skipped, 1 failed" in captured.out
    assert "cannot be written (File too large)" in captured.err
    assert "Traceback" not in captured.err


# Results that are not the image enlarged


def test_an_image_on_which_the_network_diverges_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = drawn_pictures(48)
    save(tmp_path / "in" / "board.png", drawn["checker_8"])
    masked = np.dstack([picture(48, 48), drawn["checker_2"][..., 0]])
    save(tmp_path / "in" / "masked.png", masked)
    save(tmp_path / "in" / "photo.png", picture())
    save_runaway(tmp_path / "net.onnx")
    command = (tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "net.onnx")
    assert adadm(*command) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}: 1 done, 0 skipped, 2 failed\n"
    for name in ("board", "masked"):
        assert f"  {tmp_path / 'in' / name}.png: expected a result " in captured.err
    assert "--limit auto, or give another model; --accept keeps such results" in captured.err
    assert files(tmp_path / "out") == ["photo.png"]
    right = expected(picture(), str(tmp_path / "net.onnx"))
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "photo.png"), right)
    assert adadm(*command, "--accept") == 0
    captured = capsys.readouterr()
    for name in ("board.png", "masked.png, alpha"):
        assert f"{tmp_path / 'in' / name}: WARNING: expected a result " in captured.err
    assert files(tmp_path / "out") == ["board.png", "masked.png", "photo.png"]
    (tmp_path / "net.onnx").unlink()
    assert adadm(tmp_path / "in", "-o", tmp_path / "limited") == 0
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, 1e20])
def test_a_model_that_returns_no_image_writes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, io: str
) -> None:
    """Neither of all pixels nor of a patch of them, as real sessions return them."""
    image = picture(24, 40)
    save(tmp_path / "a.png", image)
    result = image.repeat(2, axis=0).repeat(2, axis=1).astype(np.float32)
    options = ("-o", tmp_path / "b.png", "--model", tmp_path / "net.onnx")
    for part in (np.s_[:], np.s_[16:32, 32:48]):
        wrong = result.copy()
        wrong[part] = value
        save_constant(tmp_path / "net.onnx", wrong, io)
        assert adadm(tmp_path / "a.png", *options) == 1
        assert f"{tmp_path / 'a.png'}: expected a result " in capsys.readouterr().err
        assert files(tmp_path) == ["a.png", "net.onnx"]
    save_constant(tmp_path / "net.onnx", result, io)
    assert adadm(tmp_path / "a.png", *options) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), result)


# Kinds of pixels


@pytest.mark.parametrize(
    ("key", "text"),
    [("upscale", "3"), ("upscale", "2.5"), ("rgb_range", "-255"), ("io", "uint8"), ("memory", "x")],
)
def test_a_model_with_wrong_metadata_is_one_message(
    key: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(bundled_path("x2"))
    for entry in model.metadata_props:
        entry.value = text if entry.key == f"adadm.{key}" else entry.value
    onnx.save(model, tmp_path / "m.onnx")
    photos = [save(tmp_path / f"{name}.png", picture()) for name in "ab"]
    assert adadm(*photos, "--model", tmp_path / "m.onnx", "-o", tmp_path / "out") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"adadm upscale: {tmp_path / 'm.onnx'}: ") and text in said
    assert not (tmp_path / "out").exists()


def test_alpha_is_upscaled_too(tmp_path: Path) -> None:
    image = picture(channels=4)
    image[..., 3] = np.linspace(255, 0, 42)
    save(tmp_path / "in" / "gradient.png", image)
    image[..., 3] = 255
    save(tmp_path / "in" / "opaque.png", image)
    assert adadm(tmp_path / "in", "-o", tmp_path / "out") == 0
    opaque = pixels(tmp_path / "out" / "opaque.png", "RGBA")
    assert (opaque[..., 3] == 255).all()
    np.testing.assert_array_equal(opaque[..., :3], expected(image[..., :3]))
    gradient = pixels(tmp_path / "out" / "gradient.png", "RGBA")
    np.testing.assert_array_equal(gradient[..., :3], opaque[..., :3])
    # of the pixels' middles, twice as dense
    linear = np.interp((np.arange(84) - 0.5) / 2, np.arange(42), np.linspace(255, 0, 42))
    assert np.abs(gradient[:, 2:-2, 3] - linear[2:-2]).max() <= 3


def test_alpha_in_tiles_has_statistics_of_its_own(tmp_path: Path) -> None:
    image = picture(36, 60, channels=4)
    save(tmp_path / "a.png", image)
    for output, tile in (("whole.png", "off"), ("tiles.png", "24")):
        options = ("--tile", tile, "--passes", "settle")
        assert adadm(tmp_path / "a.png", "-o", tmp_path / output, *options) == 0
    whole, tiles = (pixels(tmp_path / name, "RGBA") for name in ("whole.png", "tiles.png"))
    assert np.abs(whole - tiles).max() <= 1
    alpha = expected(image[..., 3:].repeat(3, axis=2)).mean(axis=2)
    low, high = (
        bound(image[..., 3], size=3, mode="nearest").repeat(2, axis=0).repeat(2, axis=1)
        for bound in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    # by 1 where one of the three channels meets a bound, which is before their mean
    assert np.abs(whole[..., 3] - np.rint(alpha).clip(low, high)).max() <= 1


@pytest.mark.parametrize("tile", ["off", "24"])
def test_opaque_and_clear_parts_stay_exactly_so(tmp_path: Path, tile: str) -> None:
    image = picture(40, 60, channels=4)
    image[..., 3] = np.where(np.arange(60) < 30, 255, 0)
    save(tmp_path / "a.png", image)
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "b.png", "--tile", tile) == 0
    alpha = pixels(tmp_path / "b.png", "RGBA")[..., 3]
    assert (alpha[:, :58] == 255).all() and (alpha[:, 62:] == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_stay_16_bits(tmp_path: Path, channels: int) -> None:
    kind = "grey16" if channels < 3 else "rgb16"
    values = picture(channels=4)[..., :channels].astype(np.uint16) * 250 + 399
    image = pyvips.Image.new_from_array(values).copy(interpretation=kind)
    image.write_to_file(str(tmp_path / "a.tif"))
    assert adadm(tmp_path / "a.tif", "-o", tmp_path / "b.png") == 0
    written = pyvips.Image.new_from_file(str(tmp_path / "b.png"))
    assert (written.format, written.bands) == ("ushort", channels)  # Pillow has grey alone of them
    found = written.numpy().reshape(60, 84, channels).astype(np.int64)
    colour = values[..., : 3 if channels >= 3 else 1]
    fine = opened("x2").upscale(np.broadcast_to(colour, (30, 42, 3)))
    exact = fine if channels >= 3 else fine.mean(axis=2, keepdims=True)
    assert np.abs(found[..., : colour.shape[2]] - exact).max() <= 0.5
    assert len(np.unique(found % 257)) > 200  # not 8 bits made wider


def test_quality_of_jpeg(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(60, 70))
    low, high = tmp_path / "20.jpg", tmp_path / "100.jpg"
    for target in (low, high):
        assert adadm(tmp_path / "a.png", "-o", target, "--quality", target.stem) == 0
    assert 2 * low.stat().st_size < high.stat().st_size


# Tiles


@pytest.mark.parametrize(
    ("options", "said", "largest_difference"),
    [
        (
            "--tile 40",
            "2 x 3 windows of 64x64 px, which overlap by 12 px on each side: tiles of 40 px are",
            1,
        ),
        (
            "--memory 0.001",
            "12 px on each side: no tile fits for certain, 0.0 GiB are left of the memory limit",
            1,
        ),
        ("--tile 40 --passes 1 --overlap 3", "overlap by 3 px", None),
    ],
)
def test_tiles_are_said_and_are_as_good_as_the_whole(
    options: str,
    said: str,
    largest_difference: int | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = picture(100, 130)
    image[:50, :65] = 0
    save(tmp_path / "a.png", image)
    assert adadm(tmp_path / "a.png", "-o", tmp_path / "b.png", *options.split()) == 0
    assert said in capsys.readouterr().err
    difference = np.abs(pixels(tmp_path / "b.png") - expected(image)).max()
    assert difference <= largest_difference if largest_difference else difference > 3


def test_a_model_of_ones_own_in_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, whole, tiles = exported_tiles("edsr", 2, Options())
    for name, model in (("net", whole), ("net.tile", tiles.tile), ("net.moments", tiles.moments)):
        onnx.save(model, tmp_path / f"{name}.onnx")
    image = picture(60, 80)
    image[:30, :40] = 0
    save(tmp_path / "a.png", image)
    for tile in ("off", "24"):
        options = ("--model", tmp_path / "net.onnx", "--tile", tile, "--passes", "settle")
        command = (tmp_path / "a.png", "-o", tmp_path / f"{tile}.png", *options)
        assert adadm(*command, "--accept") == 0  # of random weights
    assert capsys.readouterr().err.count("a.png: WARNING: expected a result ") == 2
    assert np.abs(pixels(tmp_path / "24.png") - pixels(tmp_path / "off.png")).max() <= 1


# Stopping

# Pixels in a temporary file, as of a large photograph; and it tells the windows that are done.
SPOOLING = """
import sys
from adadm.runtime import cli
from adadm.runtime.images import photo_reader
from adadm.runtime.progress import Bar
photo_reader._MOST_IN_MEMORY_BYTES = 0
Bar.advance = lambda self, done, total, note="": print(done, total, flush=True)
sys.exit(cli.main(["upscale", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("number", "passes"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGTERM, 1)]
)
def test_stopping_leaves_whole_files_and_nothing_else(
    tmp_path: Path, number: signal.Signals, passes: int
) -> None:
    first = picture(30, 40)  # no larger than one tile
    save(tmp_path / "in" / "a.png", first)
    save(tmp_path / "in" / "b.png", picture(1000, 1000))
    save(tmp_path / "in" / "c.png", first)
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    options = ["--tile", "16", "--passes", str(passes), "--backend", "cpu"]
    command = [sys.executable, "-c", SPOOLING, str(tmp_path / "in"), "-o", str(out), *options]
    with started(command, {**os.environ, "TMPDIR": str(temporary)}) as process:
        assert process.stdout is not None
        windows = (tuple(map(int, line.split())) for line in process.stdout)
        assert next(done for done, total in windows if total > 1000 and done > 20)
        assert list(out.glob(".adadm-*.png"))
        process.send_signal(number)
        code, output, errors = finish(process)
    assert code == 1
    assert errors.splitlines()[-1] == "adadm upscale: stopped"
    assert "Traceback" not in errors
    assert "failed" not in output
    assert files(out) == ["a.png"]
    np.testing.assert_array_equal(pixels(out / "a.png"), expected(first))
    assert [name for name in files(temporary) if name != ".ses"] == []  # ONNX Runtime's session


# The command


def test_the_command_runs_from_anywhere(tmp_path: Path) -> None:
    save(tmp_path / "in dir" / "ä 写.png", picture())
    result = subprocess.run(
        [COMMAND, "upscale", "in dir", "-o", "out", "--backend", "cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "out: 1 done, 0 skipped, 0 failed\n"
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "ä 写.png"), expected(picture()))


def test_help_says_what_every_option_does() -> None:
    result = subprocess.run([COMMAND, "upscale", "--help"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: adadm upscale ")
    for option in ("--tile auto|N|off", "--passes N|settle", "--overlap PX", "--memory GIB"):
        assert option in result.stdout
    described = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert len(described) > 30


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "a.png",
        "-o out",
        *(
            f"a.png -o out {option}"
            for option in (
                *("--tile 0", "--tile large", "--passes 0", "--passes 1.5", "--upscale 5"),
                *("--format gif", "--quality 0", "--quality 101", "--threads -1"),
                *("--max-megapixels nan", "--backend gpu"),
            )
        ),
    ],
)
def test_usage_errors_exit_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("adadm upscale", upscale.main, arguments.split())
    assert stop.value.code == 2
    assert "adadm upscale: error: " in capsys.readouterr().err


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['pyvips'] = None; from adadm.runtime.cli import main; "
        "sys.exit(main(['upscale', 'a.png', '-o', 'out']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    install = "pip install 'adadm-deploy[photos]'"
    assert result.stderr == (f"adadm upscale: pyvips is not installed, but required: {install}\n")


def test_the_folder_one_is_in_is_a_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "a.png", picture(10, 12))
    monkeypatch.chdir(tmp_path / "in")
    assert adadm("./", "-o", "../out") == 0
    assert files(tmp_path / "out") == ["a.png"]
    with pytest.raises(SystemExit, match="2"):
        adadm("", "-o", "../out")
