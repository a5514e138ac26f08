"""No output of a verb or a script may be an input or another output: nothing is destroyed."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from _support.bundles import bundled, write_bundle
from _support.programs import execute, parsers
from adadm.runtime.arguments import Paths
from adadm.runtime.cli import VERBS
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.video import frames

# Command lines, in which OUT stands for a link to each of the files that are read.
FILM = "--model net.onnx -o OUT.mkv"
PHOTOS = "--images photos"
VALIDATE = f"validate net.onnx --against net.pt {PHOTOS}"
TRAIN = f"train {PHOTOS} --validation photos"
READ = [
    ("export net.pt -o OUT.onnx", "net.pt"),
    ("export net.pt --report OUT", "net.pt"),
    (f"quantize net.onnx {PHOTOS} --precision fp16 -o OUT.onnx", "net.onnx"),
    (f"quantize net.pt {PHOTOS} --precision fp16 -o x.onnx --cache OUT", "net.pt"),
    (f"quantize n.json {PHOTOS} --precision fp16 -o n.onnx", "n.json"),
    (f"{VALIDATE} -o OUT.json", "net.onnx net.pt net.json net.tile.onnx photos/a.png"),
    (f"{VALIDATE} --thresholds t.json -o OUT.json", "t.json"),
    (f"{VALIDATE} --sign k.pem -o OUT.json", "k.pem"),
    (
        "validate r.json --against bundle -o OUT.json",
        "r.json bundle/MANIFEST.json bundle/model.onnx",
    ),
    ("inspect net.pt --json OUT", "net.pt"),
    (f"inspect net.pt {PHOTOS} -o OUT.png", "photos/a.png"),
    (f"inspect net.pt {PHOTOS} -o OUT.svg", "net.pt"),
    (f"ship net.pt {PHOTOS} --target cpu -o OUT", "net.pt"),
    (f"ship net.pt {PHOTOS} --target cpu -o o --cache OUT", "photos/a.png"),
    (f"ship shipped/models/s.json {PHOTOS} --target cpu -o shipped", "net.pt"),
    ("build net.onnx --target tensorrt-rtx -o OUT.engine", "net.onnx"),
    ("build net.onnx --target tensorrt-rtx -o x.engine --timing-cache OUT", "net.onnx"),
    ("build net.onnx --target tensorrt-rtx -o OUT.engine --adopt plan", "plan"),
    ("bundle net.onnx --target jetson-orin-jp62 -o OUT", "net.onnx"),
    ("upscale photos/a.png -o OUT.png --overwrite", "photos/a.png"),
    ("upscale photos/a.png -o OUT.png --overwrite --model net.onnx", "net.onnx"),
    ("doctor --json OUT", "MODEL"),
    (f"camera film.mkv {FILM}", "film.mkv net.onnx"),
    (f"camera file:film.mkv {FILM}", "film.mkv"),
    (f"camera file://HERE/film.mkv {FILM}", "film.mkv"),
    (f"camera concat:other.mkv|film.mkv {FILM}", "film.mkv"),
    ("verify bundle --json OUT", "bundle/model.onnx bundle/MANIFEST.json bundle/model.engine.json"),
    ("evaluate net.pt photos --json OUT", "net.pt photos/a.png"),
    (f"{TRAIN} -o OUT.safetensors", "photos/a.png"),
    (f"{TRAIN} --start-from s.safetensors -o OUT.safetensors", "s.safetensors"),
    ("update_trtexec_options net.pt -o OUT", "net.pt"),
]
TWICE = [
    ("export", "net.pt -o x.onnx --report x.onnx"),
    ("export", "net.pt --report net.onnx"),
    ("export", "net.pt -o x.onnx --stats external --report x.moments.onnx"),
    ("quantize", "net.pt --images photos --precision fp16 -o x.onnx --cache x.json"),
    ("validate", "net.onnx --against net.pt --images photos -o both.json"),
    ("validate", "net.onnx --against net.pt --images photos -o both.json --sign both.json.sig"),
    ("inspect", "net.pt -o x.svg --json x.svg"),
    ("build", "net.onnx --target tensorrt-rtx -o x.engine --timing-cache x.engine"),
    ("build", "net.onnx --target tensorrt-rtx -o x.engine --timing-cache x.engine.json"),
    ("build", "net.onnx --target tensorrt-rtx -o x.engine --timing-cache x.engine.log"),
    ("upscale", "photos also -o out"),
]
SAID = ("is read, and writing it would destroy it", "would replace a source", "not a regular file")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("made") / "bundle", {"whole": bundled()})


@pytest.fixture
def folder(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in. Nothing in it is what it says: that is never looked at."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "also", "shipped/models"):
        Path(name).mkdir(parents=True)
    for name in (
        *("net.pt", "net.onnx", "net.tile.onnx", "net.json", "n.json", "t.json", "r.json", "plan"),
        *(
            "film.mkv",
            "s.safetensors",
            "shipped/models/s.json",
            "both.html",
            "both.json.sig",
            "k.pem",
        ),
    ):
        Path(name).write_text(f"what {name} has")
    os.link("both.html", "both.json")
    for name in ("photos", "also"):
        Image.new("RGB", (30, 20), "teal").save(f"{name}/a.png")
    shutil.copytree(bundle, "bundle")
    Path("bundle/model.engine.json").write_text("a manifest")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("line", "read"), [(line, read) for line, files in READ for read in files.split()]
)
def test_an_output_that_is_read_is_refused_before_anything_runs(
    line: str, read: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = line.replace("HERE", str(folder)).split()
    out = next((word.replace("OUT", "link") for word in words if word.startswith("OUT")), "link")
    os.symlink(bundled_path("x2") if read == "MODEL" else folder / read, out)
    before = contents(folder)
    assert execute(program, [out if word.startswith("OUT") else word for word in words]) == 1
    said = capsys.readouterr().err
    assert any(part in said for part in SAID), said
    assert contents(folder) == before and Path(out).is_symlink()


@pytest.mark.parametrize(("program", "words"), TWICE)
def test_two_outputs_of_one_name_are_refused_before_anything_runs(
    program: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert execute(program, words.split()) == 1
    said = capsys.readouterr().err
    assert "would be written twice" in said or "would both become" in said
    assert contents(folder) == before


def test_frames_of_a_sequence_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenCV reads numbered images one after the other, from a pattern or from the first on."""
    Path("frames").mkdir()
    for number in range(3):
        shutil.copy("photos/a.png", f"frames/{number:06}.png")
    before = contents(folder)
    for source in ("frames/%06d.png", "frames/000000.png", "frames"):
        assert execute("camera", [source, "--model", "net.onnx", "-o", "frames"]) == 1
        said = capsys.readouterr().err
        assert any(part in said for part in SAID), said
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("film.mkv", 'appsrc ! videoconvert ! filesink location="film.mkv"'),
        ("filesrc location=film.mkv ! decodebin ! appsink", "film.mkv"),
        ("filesrc location = film.mkv ! decodebin ! appsink", "film.mkv"),
        ("filesrc location='my film.mkv' ! decodebin ! appsink", "my film.mkv"),
        ("uridecodebin uri=file://HERE/my%20film.mkv ! appsink", "my film.mkv"),
        ("multifilesrc location=frames/%06d.png ! pngdec ! appsink", "frames"),
        ("frames", "appsrc ! pngenc ! multifilesink location=frames/%06d.png"),
        ("frames/%06d.png", "appsrc ! pngenc ! multifilesink location=frames/%06d.png"),
    ],
)
def test_what_a_pipeline_reads_and_writes_counts(
    source: str, output: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.link("film.mkv", "my film.mkv")
    Path("frames").mkdir()
    shutil.copy("photos/a.png", "frames/000000.png")
    source = source.replace("HERE", str(folder))
    assert execute("camera", [source, "--model", "net.onnx", "-o", output]) == 1
    assert "is read, and writing it would destroy it" in capsys.readouterr().err


def test_a_colon_in_the_name_of_a_film_is_no_address(folder: Path) -> None:
    os.link("film.mkv", "a:b.mkv")
    frames.check_frames("a:b.mkv", "b.mkv", ".png")


def test_an_engine_may_be_adopted_in_place(folder: Path) -> None:
    """As the line that --print-command prints writes it there."""
    module = importlib.import_module(VERBS["build"].module)
    shutil.copy("plan", "x.engine")
    for plan in ("x.engine", str(folder / "x.engine")):
        words = ["net.onnx", "--target", "tensorrt-rtx", "-o", "x.engine", "--adopt", plan]
        assert module._parse(words).adopt == Path(plan)


@pytest.mark.parametrize(
    "output", ["MANIFEST.json", "model.onnx", "outputs/whole.a.json", "pipe", "stream"]
)
def test_the_script_for_old_pythons_writes_over_nothing_that_it_reads(
    folder: Path, output: str
) -> None:
    script = resources.files("adadm.deployment.bundling.device_files") / "compare_outputs.py"
    shutil.copy(str(script), "bundle/verify.py")
    Path("bundle/outputs").mkdir()
    Path("bundle/outputs/whole.a.json").write_text("{}")
    os.mkfifo("bundle/pipe")
    os.symlink("/proc/self/fd/1", "bundle/stream")
    before = contents(folder)
    command = [sys.executable, "bundle/verify.py", "--json", f"bundle/{output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "not a regular file" if output in ("pipe", "stream") else "would replace a file that is"
    assert done.returncode == 1 and said in done.stderr
    assert contents(folder) == before
    assert Path("bundle/pipe").is_fifo() and Path("bundle/stream").is_symlink()


# Options of the future: each that names a file says whether it is read or written.

CHECKED_ELSEWHERE = {
    ("upscale", "input"),  # find_jobs checks each result against each source
    ("upscale", "output"),
    ("upscale", "compare"),
    ("build", "adopt"),  # which may be the output
    ("camera", "source"),  # check_frames knows what an address or a pipeline reads
    ("camera", "output"),
    ("camera", "model"),
    ("upscale", "model"),  # with the sources
}


def test_every_option_with_a_path_is_checked() -> None:
    seen = set()
    for program, parser in parsers():
        for action in parser._actions:
            method = getattr(action.type, "func", action.type)  # of a partial
            collects = isinstance(getattr(method, "__self__", None), Paths)
            names_a_file = action.type is Path or action.dest in (
                *("model", "source", "input", "output", "checkpoint", "images", "json", "report"),
                *("cache", "certificate", "against", "thresholds", "bundle", "adopt"),
                *("compare", "timing_cache", "start_from", "validation", "folders", "checkout"),
            )
            if names_a_file and not collects:
                assert (program, action.dest) in CHECKED_ELSEWHERE, (program, action.dest)
            seen.add((program, action.dest))
    assert seen >= CHECKED_ELSEWHERE
