from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from _support.bundles import ASKED_DB, bundled, edit_manifest, sign, smooth, write_bundle
from adadm.runtime import json_format
from adadm.runtime import verify as command
from adadm.runtime.bundles.bundle import Bundle, ReferenceCase
from adadm.runtime.bundles.case_results import Times, compare_case, latency_of
from adadm.runtime.bundles.verification import Verification, verify
from adadm.runtime.errors import EngineError, ParityError
from adadm.runtime.images.compare import Comparison
from adadm.runtime.progress import Progress
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

FORMS = ("whole", "tile", "moments")
MODELS = ("model", "model.tile", "model.moments")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    return write_bundle(folder, {form: bundled(form) for form in FORMS})


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def _verified(folder: Path) -> Verification:
    return verify(Bundle.open(folder), "auto", 0.01)


def _alter_weights(model: Path, value: bytes = b"A") -> None:
    """A hundred of them, in the middle of the file, which is all weights; to floats of 12."""
    content = bytearray(model.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = value * 400
    model.write_bytes(content)


def test_every_form_passes_and_it_says_what_was_run(folder: Path) -> None:
    progress = Mock(spec=Progress)
    found = verify(Bundle.open(folder), "auto", 0.01, progress=progress)
    assert found.report.passed
    assert found.report.backend == "cpu"
    assert str(found.report.reason).endswith("model.engine is missing; build.sh makes it")
    ran = [
        (outcome.reference.name, outcome.reference.variant, *outcome.comparisons)
        for outcome in found.outcomes
    ]
    assert ran == [
        ("waves", "whole", "sr"),
        ("other", "whole", "sr"),
        ("waves", "tile", "sr"),
        ("waves", "moments", "moments"),
    ]
    assert found.report.diagnosis is None
    progress.phase.assert_any_call("running other, whole")
    assert found.report.latency is not None
    assert (found.report.latency.reference, found.report.latency.kernels_ms) == ("waves", None)
    times = found.report.latency.end_to_end_ms
    assert times.count >= 1
    assert 0 < times.min <= times.median <= times.p90 <= times.p99 <= times.max
    assert times.min <= times.mean <= times.max


def test_it_runs_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the runs move, by 250 ms each."""
    now = [0.0]
    clock = Mock(perf_counter=lambda: now[0])
    monkeypatch.setattr("adadm.runtime.bundles.case_results.time", clock)
    session = Mock(spec=OnnxRuntimeSession)
    session.run = lambda feed: now.append(now.pop() + 0.25)
    for seconds, count in ((0.01, 1), (1.0, 4)):
        times = latency_of(session, "waves", {}, seconds).end_to_end_ms
        assert (times.count, times.min, times.mean, times.max) == (count, 250, 250, 250)


def test_what_goes_back_to_the_host(folder: Path) -> None:
    found = _verified(folder)
    content = json.loads(json_format.text(found.report))
    assert (content["format"], content["passed"], content["backend"]) == (1, True, "cpu")
    assert (content["target"], content["precision"]) == ("tensorrt-rtx", "float32")
    assert content["reason"] == found.report.reason
    files = ("MANIFEST.json", *(f"{name}.onnx" for name in MODELS))
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    engines = dict.fromkeys(f"{name}.engine" for name in MODELS)
    assert content["sha256"] == {**digests, **engines}
    first = content["references"][0]
    assert (first["name"], first["form"], first["passed"]) == ("waves", "whole", True)
    sr = first["outputs"]["sr"]
    assert (sr["asked_psnr_db"], sr["border_px"], sr["shape"]) == (ASKED_DB, 8, [1, 3, 96, 112])
    assert content["latency"]["end_to_end_ms"]["count"] >= 1
    assert content["device"]["versions"]["numpy"] == np.__version__


def test_altered_weights_fail_and_the_rest_is_compared(folder: Path) -> None:
    _alter_weights(folder / "model.onnx")
    found = _verified(folder)
    assert not found.report.passed
    assert found.report.changed_files == ("model.onnx",)
    failed = [bool(outcome.failures) for outcome in found.outcomes]
    assert failed == [True, True, False, False]
    comparison = found.outcomes[0].comparisons["sr"]
    assert comparison is not None and comparison.psnr_db < ASKED_DB
    assert f"dB; required {ASKED_DB} dB" in found.outcomes[0].failures[0]
    assert found.report.diagnosis == "not localized: the model has no modulators"
    sign(folder)  # so that digests tell nothing
    found = _verified(folder)
    assert (found.report.passed, found.report.changed_files) == (False, ())


def test_nan_is_a_failure_and_no_exception(folder: Path) -> None:
    _alter_weights(folder / "model.onnx", b"\xff")
    found = _verified(folder)
    assert found.outcomes[0].comparisons == {"sr": None}
    assert "sr: the found output has nan at" in found.outcomes[0].failures[0]
    content = json.loads(json_format.text(found.report))
    assert content["references"][0]["outputs"] == {"sr": {"asked_psnr_db": ASKED_DB}}


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def _damage_metadata(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'{"blocks"') == 1
    path.write_bytes(content.replace(b'{"blocks"', b'{"bl\xffcks"'))


@pytest.mark.parametrize(
    ("name", "damage", "failed", "message"),
    [
        ("model.onnx", Path.unlink, ["waves whole", "other whole"], r"model\.onnx"),
        ("model.onnx", _shorten, ["waves whole", "other whole"], "not a complete ONNX model"),
        ("model.onnx", _damage_metadata, ["waves whole", "other whole"], "0xff"),
        ("reference/whole.other.npz", Path.unlink, ["other whole"], "No such file"),
        ("reference/whole.waves.npz", _flip, ["waves whole"], r"is damaged.*copy the bundle again"),
        ("reference/tile.waves.npz", _shorten, ["waves tile"], "not a zip file"),
    ],
)
def test_damage_fails_what_it_concerns(
    folder: Path, name: str, damage: Callable[[Path], None], failed: list[str], message: str
) -> None:
    damage(folder / name)
    found = _verified(folder)
    assert found.report.changed_files == (name,)
    wrong = [outcome for outcome in found.outcomes if outcome.failures]
    assert [f"{o.reference.name} {o.reference.variant}" for o in wrong] == failed
    assert all(outcome.comparisons == {} for outcome in wrong)
    assert re.search(message, wrong[0].failures[0])


def test_a_file_that_is_not_run_fails_too(folder: Path) -> None:
    (folder / "README.md").write_text("hello")
    sign(folder)
    (folder / "README.md").write_text("hallo")
    found = _verified(folder)
    assert found.report.changed_files == ("README.md",)
    assert not any(outcome.failures for outcome in found.outcomes)
    assert not found.report.passed


def test_without_a_whole_engine_nothing_else_is_run(folder: Path) -> None:
    found = verify(Bundle.open(folder), "engine", 0.01)
    assert (found.report.passed, found.report.backend, found.report.reason) == (
        False,
        "engine",
        "selected explicitly",
    )
    assert len(found.outcomes) == 4
    assert all("engine cannot be read: No such file" in o.failures[0] for o in found.outcomes)
    (folder / "model.engine").write_bytes(b"plan")
    found = _verified(folder)
    assert (found.report.passed, found.report.backend) == (False, "engine")
    assert "has no manifest model.engine.json beside it" in str(found.report.reason)


def _compare(
    asked_db: float, lr: Any, expected: Any, found: Any, name: str = "sr"
) -> tuple[Comparison | None, list[str]]:
    """What `compare_case` says of the output `sr`, or of another name, as the only one."""
    reference = ReferenceCase(
        name="case", variant="whole", file="", inputs={"lr": lr.shape}, psnr_db={name: asked_db}
    )
    found = found if isinstance(found, dict) else {name: found}
    comparisons, failures = compare_case(reference, found, {"lr": lr, name: expected})
    assert comparisons.keys() == {name}
    return comparisons[name], failures


def test_the_border_of_images_is_that_of_planes() -> None:
    lr, expected = (np.full((1, *size, 3), 200, np.uint8) for size in ((8, 10), (24, 30)))
    found = expected.copy()
    found[0, 20, 29] = 190  # an edge of the image, and no edge of (W, 3)
    comparison, _ = _compare(20, lr, expected, found)
    assert comparison is not None
    assert (comparison.border_px, comparison.worst_at) == (12, (0, 0, 20, 29))
    lr = expected = np.full((1, 40, 40, 3), 200, np.uint8)
    found = np.full((1, 40, 40, 3), 190, np.uint8)
    found[:, 4:-4, 4:-4] = 197
    comparison, _ = _compare(20, lr, expected, found)
    assert comparison is not None
    assert (comparison.border_error, comparison.interior_error) == (10, 3)


def test_moments_are_no_images() -> None:
    expected = np.arange(24, dtype=np.float32).reshape(1, 8, 3)
    found = expected.copy()
    found[0, 7, 2] -= 0.023 * np.sqrt(24, dtype=np.float32)  # 60 dB of the peak of 23
    for asked_db, failures in ((59.9, 0), (60.1, 1)):
        comparison, failed = _compare(asked_db, smooth(8, 10), expected, found, name="moments")
        assert len(failed) == failures
        assert comparison is not None and comparison.psnr_db == pytest.approx(60, abs=0.01)


def test_outputs_of_other_names_or_shapes_fail() -> None:
    sr = smooth(8, 10)
    wrong = "sr: expected float32 (1, 3, 8, 10), got float32 (1, 3, 7, 10)"
    assert _compare(20, sr, sr, {"hr": sr}) == (None, ["expected outputs ['sr'], got ['hr']"])
    assert _compare(20, sr, sr, sr[:, :, 1:]) == (None, [wrong])


def test_an_error_against_zeros_fails() -> None:
    zeros = np.zeros((1, 3, 8, 10), np.float32)
    assert _compare(90, zeros, zeros, zeros)[1] == []
    assert len(_compare(90, zeros, zeros, zeros + 1)[1]) == 1


def test_percentiles_are_those_of_the_runs() -> None:
    times = Times.of([*range(1, 101), 1000.0])
    assert (times.count, times.median, times.p90, times.p99) == (101, 51, 91, 100)
    assert (times.min, times.max) == (1, 1000)
    assert times.mean == pytest.approx(6050 / 101)


def _run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The command in a process of its own, and what it wrote."""
    out = folder.parent / "result.json"
    line = [sys.executable, "-m", "adadm.runtime.verify", str(folder), "--json", str(out)]
    done = subprocess.run([*line, "--seconds", "0.1", *arguments], capture_output=True, text=True)
    return done, json.loads(out.read_text())


def test_the_command_passes(folder: Path) -> None:
    done, content = _run(folder)
    assert done.returncode == 0, done.stderr
    assert "moments" in done.stdout and "inf" in done.stdout
    assert "latency of waves, end to end: median" in done.stdout
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("passed on cpu: ") and verdict.endswith("build.sh makes it")
    assert content["passed"] is True


def test_the_command_fails_and_writes_why(folder: Path) -> None:
    _alter_weights(folder / "model.onnx")
    done, content = _run(folder, "--backend", "cpu")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAILED on cpu: selected explicitly"
    assert "does not pass on cpu:\n  model.onnx is missing or differs from" in done.stderr
    assert "waves, whole: sr (1, 3, 96, 112): largest error" in done.stderr
    assert (content["passed"], content["changed_files"]) == (False, ["model.onnx"])


def test_what_is_not_of_the_bundle_is_named(folder: Path) -> None:
    (folder / "note.txt").write_text("of the user")
    done, content = _run(folder, "--backend", "cpu")
    assert done.returncode == 0 and "note: note.txt is not part of the bundle\n" in done.stdout
    (folder / "json.py").write_text("")
    done, content = _run(folder, "--backend", "cpu")
    assert done.returncode == 1 and "  json.py is not part of the bundle, and could" in done.stderr
    assert (content["passed"], content["unlisted_files"]) == (False, ["json.py", "note.txt"])


def test_what_cannot_run_has_no_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in folder.glob("*.onnx"):
        model.write_bytes(b"")
    with pytest.raises(ParityError, match=r"model\.onnx is empty"):
        command.main([str(folder), "--backend", "cpu", "--seconds", "0.01"])
    assert capsys.readouterr().out == "FAILED on cpu: selected explicitly\n"


def test_names_are_shown_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = json.loads((folder / "MANIFEST.json").read_text())["references"]
    edit_manifest(folder, references=[{**r, "name": "[red]"} for r in references])
    command.main([str(folder), "--seconds", "0.01"])
    assert capsys.readouterr().out.count("[red]") == 5


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "five"])
def test_a_time_that_cannot_be_is_refused(
    folder: Path, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([str(folder), f"--seconds={seconds}"])
    assert f"expected a number above 0, at most 1000000, got '{seconds}'" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"no plan of trtexec \(model\.engine\.plan, model\.ti"):
        command.main([str(folder), "--record"])
    with pytest.raises(IsADirectoryError):
        command.main([str(folder), "--json", str(folder)])


def test_the_error_has_every_reason(folder: Path) -> None:
    (folder / "reference" / "tile.waves.npz").unlink()
    with pytest.raises(ParityError, match=r"tile\.waves\.npz is missing(.|\n)*waves, tile: .*npz"):
        command.main([str(folder), "--seconds", "0.01"])


def test_a_result_without_a_run_has_no_latency(folder: Path) -> None:
    (folder / "reference" / "whole.waves.npz").unlink()
    found = _verified(folder)
    assert found.report.latency is None
    assert json.loads(json_format.text(found.report))["latency"] is None
    assert not found.report.passed
