"""`python runtime/camera.py` as a user runs it."""

from __future__ import annotations

import io
import re
import signal
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from PIL import Image

from _support.exports import exported
from _support.file_size_limit import files_at_most
from _support.pictures import files
from _support.slow import slow_unless
from _support.waiting import finish, started, wait_until
from _support.wrong_models import save_constant
from adadm.export import Options
from adadm.runtime import Upscaler, camera
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import read_image, write_image

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

SCRIPT = Path(__file__).resolve().parents[2] / "runtime" / "camera.py"
HEIGHT, WIDTH = 24, 40

pytestmark = pytest.mark.usefixtures("no_thread_stays")

Array = npt.NDArray[np.uint8]


@cache
def proto(static: bool) -> onnx.ModelProto:
    size = (1, HEIGHT, WIDTH) if static else None
    return exported("edsr", 2, Options(io="uint8", static=size))[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "images.onnx"
    onnx.save(proto(static=False), path)
    return path


def upscale(source: str | Path, model: Path, *arguments: str | Path, accept: bool = True) -> int:
    """Accept the results of a network with random weights."""
    given = [str(source), "--model", str(model), "--backend", "cpu", *map(str, arguments)]
    given += ["--accept"] * accept
    return run("camera.py", camera.main, given)


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Smooth, and its brightness tells which it is."""
    coarse = np.random.default_rng(seed).integers(0, 40, (3, 5, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(smooth) + np.uint8(20 * seed)


def assert_images(folder: Path, images: dict[str, Array]) -> None:
    """That a folder has these images by name, and nothing else."""
    assert files(folder) == sorted(images)
    for name, image in images.items():
        np.testing.assert_array_equal(read_image(folder / name), image)


def folder_of(path: Path, count: int) -> Path:
    for number in range(count):
        write_image(path / f"frame {number}.png", picture(number))
    return path


def write_video(path: Path, codec: str, rate: float, frames: list[Array]) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def video_of(path: Path, count: int) -> Path:
    return write_video(path, "MJPG", 12.0, [picture(number) for number in range(count)])


def frames_of(path: Path) -> tuple[list[Array], float]:
    """RGB frames of a video, and its rate."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(np.ascontiguousarray(read[1][..., ::-1]))
    return frames, capture.get(cv2.CAP_PROP_FPS)


@cache
def upscaler(model: Path) -> Upscaler:
    return Upscaler(model, backend="cpu", tile="off", accept=True)


def expected(frames: list[Array], model: Path) -> list[Array]:
    return [upscaler(model).upscale(frame).astype(np.uint8) for frame in frames]


@pytest.mark.parametrize("static", [False, True])
def test_a_folder_becomes_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], static: bool
) -> None:
    onnx.save(proto(static), tmp_path / "model.onnx")
    source = folder_of(tmp_path / "in", 3)
    write_image(source / "more" / "last.bmp", picture(3))
    assert upscale(source, tmp_path / "model.onnx", "-o", tmp_path / "out") == 0
    names = ["frame 0.png", "frame 1.png", "frame 2.png", "more/last.png"]
    results = expected([picture(number) for number in range(4)], tmp_path / "model.onnx")
    assert_images(tmp_path / "out", dict(zip(names, results, strict=True)))
    captured = capsys.readouterr()
    assert re.fullmatch(r"WARNING: frame frame 0\.png: expected a result .*\n", captured.err)
    first, accepted, latency, inference = captured.out.splitlines()
    assert accepted == "accepted though not their frame enlarged: 4"
    assert re.fullmatch(r"4 frames, 0 dropped, [\d.]+ s, [\d.]+ frames per second", first)
    assert re.fullmatch(r"capture to result: median [\d.]+ ms, 99th percentile [\d.]+ ms", latency)
    assert re.fullmatch(r"inference: median [\d.]+ ms, 99th percentile [\d.]+ ms", inference)


@pytest.mark.parametrize("output", ["out", "out.avi"])
@pytest.mark.parametrize("value", [0.0, np.nan, 1e20])
def test_a_result_that_is_not_the_frame_ends_the_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, output: str
) -> None:
    """The first frame is what the model returns; for the second that is the frame before."""
    frames = [np.full((16, 24, 3), level, np.uint8) for level in (100, 109, 120)]
    for number, frame in enumerate(frames):
        write_image(tmp_path / "in" / f"{number}.png", frame)
    result = frames[0].repeat(2, axis=0).repeat(2, axis=1).astype(np.float32)
    model = save_constant(tmp_path / "stale.onnx", result, "uint8")
    options = ("-o", tmp_path / output, "--rate", "5")
    assert upscale(tmp_path / "in", model, *options, accept=False) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "camera.py: frame 2.png: expected a result within 13 of 255 grey levels of the image "
        "(bicubic interpolation: 0), got 20 at row 0, column 0. Reduce the contrast"
    )
    written = sorted(path.name for path in tmp_path.glob("out*/*"))
    assert written == (["0.png", "1.png"] if output == "out" else [])  # a video appears whole
    assert not (tmp_path / "out.avi").exists()
    result[4:20, 8:24] = value  # as an integer of 8 bits, 0 or 255
    save_constant(model, result, "uint8")
    assert upscale(tmp_path / "in", model, *options, accept=False) == 1
    assert "frame 0.png: expected a result within 13" in capsys.readouterr().err
    assert upscale(tmp_path / "in", model, *options, "--accept", accept=False) == 0
    captured = capsys.readouterr()
    assert captured.err.count("WARNING: frame 0.png: expected a result within 13") == 1
    assert "accepted though not their frame enlarged: 3" in captured.out


def test_without_an_output_it_measures(model: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 2)
    assert upscale(source, model) == 0
    assert files(tmp_path) == ["in/frame 0.png", "in/frame 1.png"]


def test_another_format(model: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 1)
    assert upscale(source, model, "-o", tmp_path / "out", "--format", "bmp") == 0
    assert_images(tmp_path / "out", {"frame 0.bmp": expected([picture(0)], model)[0]})


def test_a_video_becomes_images_in_order(model: Path, tmp_path: Path) -> None:
    source = video_of(tmp_path / "in.avi", 7)
    assert upscale(source, model, "-o", tmp_path / "out") == 0
    results = enumerate(expected(frames_of(source)[0], model))
    assert_images(tmp_path / "out", {f"{number:06}.png": result for number, result in results})


def test_a_cut_film_is_written_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    result = grey.repeat(2, axis=0).repeat(2, axis=1).astype(np.float32)
    model = save_constant(tmp_path / "grey.onnx", result, "uint8")
    whole = write_video(tmp_path / "in.mkv", "MJPG", 12.0, [grey] * 12)
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) * 7 // 10])
    command = (whole, model, "-o", tmp_path / "out.avi")
    assert upscale(*command, accept=False) == 1
    said = capsys.readouterr().err
    assert "in.mkv: expected 12 frames by its header, got " in said and "--accept" in said
    kept = len(frames_of(tmp_path / "out.avi")[0])
    assert 0 < kept < 12 and f"got {kept}:" in said
    assert upscale(*command, "--accept", accept=False) == 0
    assert "WARNING: expected 12 frames" in capsys.readouterr().err
    # which leaves the film before its end
    assert upscale(*command, "--frames", "3", accept=False) == 0


@pytest.mark.parametrize(
    "output", ["film.webm", "film.MOV", "a.m4v", "a.ts", "a.gif", "a.png", "sub/a.h265"]
)
def test_a_file_of_another_kind_is_no_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    source = video_of(tmp_path / "in.avi", 2)
    assert upscale(source, model, "-o", tmp_path / output) == 1
    assert "expected .avi, .mkv, .mp4 for a video, or a folder for images, got ." in (
        capsys.readouterr().err
    )
    assert files(tmp_path) == ["in.avi"]


@pytest.mark.parametrize(
    ("name", "codec"), [("out.avi", "MJPG"), ("new/out.mp4", "mp4v"), ("out.MKV", "mp4v")]
)
def test_a_video_becomes_a_video(model: Path, tmp_path: Path, name: str, codec: str) -> None:
    source = video_of(tmp_path / "in.avi", 9)
    assert upscale(source, model, "-o", tmp_path / name) == 0
    assert files(tmp_path) == sorted(["in.avi", name])
    frames, rate = frames_of(tmp_path / name)
    assert rate == 12.0
    results = expected(frames_of(source)[0], model)
    again, _ = frames_of(write_video(tmp_path / f"again{Path(name).suffix}", codec, 12.0, results))
    assert len(frames) == 9 and frames[0].shape == (2 * HEIGHT, 2 * WIDTH, 3)
    np.testing.assert_array_equal(frames, again)


def test_a_folder_becomes_a_video_at_a_rate(model: Path, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 4)
    assert upscale(source, model, "-o", tmp_path / "out.avi", "--rate", "30") == 0
    frames, rate = frames_of(tmp_path / "out.avi")
    assert (len(frames), rate) == (4, 30.0)


def test_it_stops_after_some_frames(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path / "in", 2)
    (source / "no image.png").write_text("")  # which comes after them
    assert upscale(source, model, "-o", tmp_path / "out", "--frames", "2") == 0
    assert capsys.readouterr().out.startswith("2 frames, 0 dropped")
    assert files(tmp_path / "out") == ["frame 0.png", "frame 1.png"]
    assert upscale(source, model, "-o", tmp_path / "out") == 1
    assert "no image.png: not a readable image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--frames", "0"], "argument --frames: expected an integer from 1 to 1000000, got '0'"),
        (
            ["--rate", "nan"],
            "argument --rate: expected a number above 0, at most 1000000, got 'nan'",
        ),
        (["--format", "gif"], "invalid choice: 'gif'"),
    ],
)
def test_options_that_make_no_sense(
    model: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        upscale("0", model, *option)
    assert message in capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_explained(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(Path("in"), 2)
    Path("empty").mkdir()
    Path("file").touch()
    Path("text.avi").write_text("no video")
    # A video whose frames are missing is one that opens.
    whole = video_of(Path("cut.avi"), 3).read_bytes()
    Path("cut.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    no_source = "expected a folder, or a camera, video, address or"
    for line, said in (
        ("empty", "empty: expected images"),
        ("cut.avi", "expected frames from cut.avi, got none"),
        *(
            (source, f"{source}: {no_source}")
            for source in ("nothing", "text.avi", "/dev/video9876", "9876")
        ),
        ("in --model x2", "camera.py: expected a model that reads 8-bit images, got x2; make"),
        ("in --model x2", "'adadm export --io uint8' or 'adadm quantize --io uint8'"),
        ("in -o out.avi", "has no frame rate; give --rate"),
        ("in -o file/a.mp4 --rate 5", "file"),
        ("in -o file/folder", "file"),
        ("in -o in", "would replace a source"),
    ):
        source, *arguments = line.split()
        assert upscale(source, model, *arguments) == 1
        assert said in capfd.readouterr().err


@pytest.mark.skipif(
    cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer"
)
def test_pipelines_need_gstreamer(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = "videotestsrc ! videoconvert ! appsink"
    source = folder_of(tmp_path / "in", 1)
    for arguments in ((pipeline, model), (source, model, "--rate", "5", "-o", pipeline)):
        assert upscale(*arguments) == 1
        said = capsys.readouterr().err
        assert f"{pipeline}: a GStreamer pipeline needs an OpenCV built with" in said


def test_without_opencv_the_extra_is_named(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    source = folder_of(tmp_path / "in", 1)
    assert upscale(source, model, "-o", tmp_path / "out") == 0
    for arguments in (("0", model), (source, model, "--rate", "5", "-o", tmp_path / "a.mp4")):
        assert upscale(*arguments) == 1
        assert "pip install 'adadm-deploy[camera]'" in capsys.readouterr().err
    assert files(tmp_path) == ["in/frame 0.png", "out/frame 0.png"]


@pytest.mark.parametrize("size_bytes", [1000, 4000])
@pytest.mark.parametrize("name", ["out", "out.avi", "out.mp4", "out.mkv"])
def test_a_full_disk(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, size_bytes: int
) -> None:
    source = folder_of(tmp_path / "in", 12)
    with files_at_most(size_bytes):
        assert upscale(source, model, "-o", tmp_path / name, "--rate", "5") == 1
    said = capfd.readouterr().err
    assert re.search(
        rf"camera\.py: .*({re.escape(name)}.* is incomplete|out.*: File too large)", said
    )
    # Images that did fit are whole; of a video there is nothing.
    if (name, size_bytes) == ("out", 4000):
        assert_images(tmp_path / "out", {"frame 0.png": expected([picture(0)], model)[0]})
    else:
        assert all(path.startswith("in/") for path in files(tmp_path))


class Camera(BaseHTTPRequestHandler):
    """A network camera: numbered frames at its own pace, without an end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        try:
            while True:
                file = io.BytesIO()
                Image.fromarray(picture(number % 10)).save(file, "JPEG")
                jpeg = file.getvalue()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                number += 1
        except OSError:  # nobody looks any more
            pass

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
        server.shutdown()
        thread.join()


def test_a_live_source_drops_frames(
    model: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upscale(address, model, "-o", tmp_path / "out", "--frames", "20") == 0
    found = re.match(r"20 frames, (\d+) dropped", capsys.readouterr().out)
    assert found and int(found[1]) > 0
    names = files(tmp_path / "out")
    assert len(names) == 20
    assert int(names[-1][:6]) == 19 + int(found[1])


@pytest.mark.parametrize(
    "number",
    slow_unless(lambda number: number == signal.SIGTERM, [signal.SIGINT, signal.SIGTERM]),
)
def test_a_signal_ends_a_live_source_and_completes_the_video(
    model: Path, address: str, tmp_path: Path, number: signal.Signals
) -> None:
    target = tmp_path / "out" / "a.avi"
    target.parent.mkdir()
    options = ["--model", str(model), "--backend", "cpu", "--accept", "-o", str(target)]
    with started([sys.executable, str(SCRIPT), address, *options]) as process:
        wait_until(lambda: any(path.stat().st_size for path in target.parent.iterdir()), process)
        process.send_signal(number)
        code, out, err = finish(process)
    assert code == 0, err
    found = re.match(r"(\d+) frames, \d+ dropped", out)
    assert found
    assert files(target.parent) == ["a.avi"]
    assert len(frames_of(target)[0]) == int(found[1]) > 0
