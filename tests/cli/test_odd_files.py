"""What people really have in place of a file: one message at once, and never a traceback."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from _support.odd_files import NOT_READABLE
from _support.programs import execute, parsers
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.errors import EngineError, SessionError
from adadm.runtime.images.arrays import read_image
from adadm.runtime.models.bundled import bundled_path

TOO_LONG = "n" * 300
IMAGES = "--images photo.png"
# Command lines, in which IN stands for what is read.
READ = [
    "export IN.pt",
    "export IN.safetensors -o x.onnx",
    f"quantize IN.pt {IMAGES} --precision fp16 -o x.onnx",
    f"quantize IN.onnx {IMAGES} --precision fp16 -o x.onnx",
    "quantize net.pt --images IN.png --precision fp16 -o x.onnx",
    f"validate IN.onnx --against net.pt {IMAGES}",
    f"validate x2 --against IN.pt {IMAGES}",
    "validate x2 --against net.pt --images IN.png",
    f"validate x2 --against net.pt {IMAGES} --thresholds IN.json",
    f"validate --certificate IN.json {IMAGES}",
    "validate IN.json --against bundle -o x.json",
    f"validate x2 --against net.pt {IMAGES} --sign IN.pem",
    "validate bundle --verify-key IN.pem",
    "validate IN.json --verify-key net.pt",
    "inspect IN.pt",
    "inspect IN.onnx",
    "inspect net.pt --images IN.png",
    f"ship IN.pt {IMAGES} --target cpu -o o",
    "ship net.pt --images IN.png --target cpu -o o",
    "build IN.onnx --target tensorrt-rtx",
    "build x2 --target tensorrt-rtx --adopt IN.plan",
    "bundle IN.onnx --target jetson-orin-jp62 -o o",
    "bundle x2 --target jetson-orin-jp62 -o o --sign IN.pem",
    "upscale IN.png -o o",
    "upscale photo.png IN.png -o o",
    "upscale @IN.txt -o o",
    "upscale photo.png -o o --model IN.onnx",
    "upscale photo.png -o o --model IN.engine",
    "camera photos --model IN.onnx",
    "verify IN",
    "evaluate IN.pt photos",
    "evaluate net.pt IN",
]
# Command lines, in which OUT stands for what is written.
WRITTEN = [
    "export net.pt -o OUT.onnx",
    "export net.pt --report OUT.json",
    f"quantize net.pt {IMAGES} --precision fp16 -o OUT.onnx",
    f"validate x2 --against net.pt {IMAGES} -o OUT.json",
    "inspect net.pt -o OUT.svg",
    "inspect net.pt --sheet OUT.svg",
    "inspect net.pt --json OUT.json",
    f"ship net.pt {IMAGES} --target cpu -o OUT",
    "build x2 --target tensorrt-rtx -o OUT.engine",
    "build x2 --target jetson-orin-jp62 -o x.engine --timing-cache OUT",
    "bundle x2 --target jetson-orin-jp62 -o OUT",
    "upscale photo.png -o OUT",
    "upscale photo.png -o OUT.png",
    "upscale photo.png -o o --compare OUT",
    "doctor --json OUT.json",
    "verify bundle --json OUT.json",
    "evaluate net.pt photos --json OUT.json",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with regular files beside the odd one; whoever waits for a pipe is woken up."""

    def wake(*_: object) -> None:
        raise AssertionError("it waits")

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "teal").save("photo.png")
    Path("photos").mkdir()
    shutil.copy("photo.png", "photos")
    Path("net.pt").write_text("weights")
    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(60)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _replaced(line: str, word: str, stem: str, make: Callable[[Path], object]) -> list[str]:
    words = line.split()
    (at,) = (index for index, text in enumerate(words) if text.lstrip("@").startswith(word))
    words[at] = words[at].replace(word, stem)
    path = Path(words[at].removeprefix("@"))
    make(path)
    return words


@pytest.mark.parametrize("kind", NOT_READABLE)
@pytest.mark.parametrize("line", READ)
def test_what_is_no_file_is_not_read(
    line: str, kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = _replaced(line, "IN", "odd", NOT_READABLE[kind])
    assert execute(program, words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "odd" in said
    assert "Not a regular file" in said or "Too many levels of symbolic links" in said


@pytest.mark.parametrize("line", READ)
def test_a_name_that_is_too_long_is_said(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = _replaced(line, "IN", TOO_LONG, lambda _: None)
    assert execute(program, words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "File name too long" in said


OUTPUTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a link to itself": (
        NOT_READABLE["a link to itself"],
        "odd",
        "Too many levels of symbolic links",
    ),
    "too long": (lambda _: None, TOO_LONG, "File name too long"),
    "below a file": (lambda _: None, "net.pt/odd", "Not a directory"),
    "below a link to itself": (
        lambda path: path.parent.symlink_to("loop"),
        "loop/odd",
        "Too many levels of symbolic links",
    ),
    "without permission": (lambda _: None, "/proc/odd", "is not writable"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("line", WRITTEN)
def test_what_cannot_be_written_is_said_before_the_work(
    line: str,
    kind: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "without permission":  # root may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    make, stem, expected = OUTPUTS[kind]
    program, *words = _replaced(line, "OUT", stem, make)
    assert execute(program, words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and expected in said


@pytest.mark.parametrize(
    "line", [line for line in WRITTEN if "." in line.split("OUT")[1][:1] and "upscale" not in line]
)
def test_a_folder_is_not_a_file_to_write(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = _replaced(line, "OUT", "odd", os.mkdir)
    assert execute(program, words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(": Is a directory\n") and "odd." in said


def test_a_pipe_among_photographs_is_no_photograph(folder: Path) -> None:
    os.mkfifo("photos/pipe.png")
    with pytest.raises(Exception, match="Not a regular file"):
        read_image("photos/pipe.png")


# What stands in place of a model, for every verb that reads one.

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
MISTAKEN = [
    (b"", "is empty; copy or download it again"),
    (LFS, "is a pointer of Git LFS"),
    (b"<!DOCTYPE html>\n<html>", "is a web page"),
    (b"\xef\xbb\xbf\r\n<HTML><head>", "is a web page"),
    (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "is a web page"),
    (b"PK\x03\x04 of torch.save", "is a checkpoint, not an ONNX model"),
    (b"\x89PNG of a picture", "is not a complete ONNX model"),
]
MODELS = [
    f"quantize IN.onnx {IMAGES} --precision fp16 -o x.onnx",
    "inspect IN.onnx",
    "build IN.onnx --target tensorrt-rtx",
    "bundle IN.onnx --target jetson-orin-jp62 -o o --no-wheels",
    "upscale photo.png -o o --model IN.onnx",
    "camera photos --model IN.onnx",
]


@pytest.mark.parametrize(("content", "expected"), MISTAKEN)
@pytest.mark.parametrize("line", MODELS)
def test_what_is_no_model_is_named_in_one_line(
    line: str, content: bytes, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = _replaced(line, "IN", "odd", lambda path: path.write_bytes(content))
    assert execute(program, words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"odd.onnx {expected}" in said


@pytest.mark.parametrize(("content", "expected"), MISTAKEN[:-2])
@pytest.mark.parametrize("suffix", [".engine", ".ENGINE", ".Plan"])
def test_what_is_no_engine_is_named_in_one_line(
    suffix: str, content: bytes, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(f"odd{suffix}").write_bytes(content)
    words = ["photo.png", "-o", "o", "--model", f"odd{suffix}"]
    assert execute("upscale", words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"odd{suffix} {expected.split(';')[0]}" in said
    assert "adadm build" in said


# Numbers: each option that parses its text has bounds.

NUMBERS = ("nan", "inf", "-inf", "1e60", "-1e60", "9" * 5000, "1e999", "", "x", "1,5", "٣" * 50)


def test_every_number_has_bounds() -> None:
    tried = 0
    for program, parser in parsers():
        assert isinstance(parser, Parser), program  # whose errors are one line
        for action in parser._actions:
            parse = action.type
            is_path = isinstance(getattr(getattr(parse, "func", parse), "__self__", None), Paths)
            if not callable(parse) or action.choices or is_path or _is_path(parse):
                continue
            tried += 1
            for text in NUMBERS:
                with pytest.raises(argparse.ArgumentTypeError, match="expected "):
                    parse(text)
    assert tried > 40


def _is_path(parse: Callable[[str], object]) -> bool:
    return getattr(parse, "__name__", "") in ("readable_path", "writable_path", "_input")


def test_a_usage_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        execute("upscale", ["photo.png", "-o", "o", "--tile", "x\x1b"])
    assert capsys.readouterr().err == (
        "adadm upscale: error: argument --tile: expected auto, off or an integer from 1 to "
        r"1000000, got 'x\x1b' (see adadm upscale --help)" + "\n"
    )


def test_a_name_of_a_bundled_model_needs_no_file(folder: Path) -> None:
    assert bundled_path("x2").is_file()
    with pytest.raises((SessionError, EngineError), match="no such model"):
        bundled_path("x5")
