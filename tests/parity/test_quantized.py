"""The bundled networks in lower precision: quality, artefacts, every runtime, and time."""

from __future__ import annotations

import functools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from _support.lowered import lowered_x2
from _support.profiles import DYNAMIC, built, tile_profile
from _support.slow import slow_unless
from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import load_source_network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.backends import open_session
from adadm.runtime.cli import main
from adadm.runtime.models.bundled import VARIANTS, Variant
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import Session
from adadm.runtime.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
UPSCALES = slow_unless(lambda upscale: upscale == 2, (2, 4))
SIDE = 192
TAIL = "tail.0.0.collapsed"

MOST_LOST_DB = {"fp16": 0.001, "int8": 0.02}
LEAST_SHARE = 0.9
LEAST_PARITY_DB = 52.0
LEAST_SPEEDUP = 1.8

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a cache, and the middles of photographs."""
    folder: Path = tmp_path_factory.mktemp("quantized")
    (folder / "images").mkdir()
    for name, photo in photographs().items():
        top, left = ((side - SIDE) // 2 for side in photo.shape[:2])
        crop = photo[top : top + SIDE, left : left + SIDE]
        Image.fromarray(crop).save(folder / "images" / f"{name}.png")
    return folder


def checkpoint(upscale: int) -> Path:
    return ROOT / "export" / "checkpoints" / f"edsr_adadm_x{upscale}.safetensors"


def bundled(upscale: int) -> Path:
    """In float32, as export wrote it."""
    return ROOT / "runtime" / "models" / f"edsr_adadm_x{upscale}.onnx"


@functools.cache
def lowered(folder: Path, upscale: int, precision: str) -> tuple[Path, dict[str, Any]]:
    """Made once: INT8 for the CPU, FP16 for TensorRT; with its report."""
    output = folder / f"x{upscale}.{precision}.onnx"
    of = "cpu" if precision == "int8" else "tensorrt10"
    words = ["quantize", checkpoint(upscale), "--images", folder / "images", "-o", output]
    words += ["--precision", precision, "--target", of, "--cache", folder / "cache"]
    assert main([str(word) for word in words]) == 0
    report: dict[str, Any] = json.loads(output.with_suffix(".json").read_text())
    return output, report


def psnr_y_db(session: Session, folder: Path, upscale: int) -> float:
    """Mean over the photographs, from the formulas alone."""
    images = CalibrationImages.of([folder / "images"], upscale)
    scores = []
    for photograph in images:
        lr = np.ascontiguousarray(photograph.lr.transpose(2, 0, 1)[None].astype(np.float32))
        sr = session.run({"lr": lr})["sr"][0].transpose(1, 2, 0)
        shown = np.clip(np.rint(sr.astype(np.float64)), 0, 255)
        weights = np.array([65.481, 128.553, 24.966]) / 255
        inner = (slice(upscale, -upscale),) * 2
        error = (shown @ weights - photograph.hr.astype(np.float64) @ weights)[inner]
        scores.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(scores))


@pytest.mark.slow
@pytest.mark.parametrize("upscale", [2, 4])
def test_int8_keeps_its_quality_with_nine_tenths_of_the_work_in_it(
    folder: Path, upscale: int
) -> None:
    output, report = lowered(folder, upscale, "int8")
    assert report["int8"]["share_of_multiply_adds"] >= LEAST_SHARE
    assert len(set(report["int8"]["spared"]) - {"head.0", TAIL}) <= 1
    single, quantized = (
        psnr_y_db(OnnxRuntimeSession(path), folder, upscale) for path in (bundled(upscale), output)
    )
    assert single - quantized <= MOST_LOST_DB["int8"]
    by_stage = {stage["name"]: stage["psnr_y_db"] for stage in report["stages"]}
    assert by_stage["ONNX Runtime"] == pytest.approx(single, abs=1e-3)
    assert by_stage["INT8"] == pytest.approx(quantized, abs=1e-3)
    assert report["lost_db"] == pytest.approx(single - quantized, abs=2e-3)
    assert all(gate["passed"] for gate in report["gates"]) and len(report["gates"]) == 7


@dataclass(frozen=True)
class Lowered:
    lowering: Lowering
    int8: list[str]


@functools.cache
def int8_for(folder: Path, of: str, stats: Any = "internal") -> Lowered:
    """The x2 network with what was found for the CPU in INT8; its ranges are in the cache."""
    _, report = lowered(folder, 2, "int8")
    images = CalibrationImages.of([folder / "images"], 2)
    request = LoweringOptions("int8", TARGETS[of], 0.02, stats=stats, cache=folder / "cache")
    lowering = Lowering.of(load_source_network(checkpoint(2)), images, request)
    return Lowered(lowering, report["int8"]["convolutions"])


@pytest.mark.slow
@pytest.mark.parametrize("of", ["tensorrt10", "jetson-orin-jp51"])
def test_int8_in_half_precision_keeps_its_quality(folder: Path, of: str) -> None:
    made = int8_for(folder, of)
    trunk = [c.name for c in made.lowering.convolutions if c.name.startswith("body")]
    assert len(trunk) == 17
    single = psnr_y_db(OnnxRuntimeSession(bundled(2)), folder, 2)
    # What was chosen for the CPU within 0.02 dB, and all that the search would have spared.
    for int8, most in ((made.int8, 0.03), (trunk, 0.07)):
        proto = made.lowering.lowered("whole", int8).evaluated
        quantized = psnr_y_db(OnnxRuntimeSession(proto.SerializeToString()), folder, 2)
        assert single - quantized <= most


@pytest.mark.slow
@pytest.mark.parametrize("upscale", [2, 4])
def test_half_precision_loses_nothing(folder: Path, upscale: int) -> None:
    _, report = lowered(folder, upscale, "fp16")
    assert report["lost_db"] <= MOST_LOST_DB["fp16"]
    assert report["trunk_exponent"] == 0 and not any(v["wide"] for v in report["float16"])
    assert all(gate["passed"] for gate in report["gates"])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("of", ["tensorrt10", "jetson-orin-jp51"])
def test_tensorrt_builds_int8(folder: Path, of: str, variant: Variant) -> None:
    """Strongly typed, and the form for 8.x, of which TensorRT for RTX knows no weak typing."""
    made = int8_for(folder, of, "internal" if variant == "whole" else "external")
    model = made.lowering.lowered(variant, made.int8).model
    assert built(model, DYNAMIC if variant == "whole" else tile_profile(model)).plan


@pytest.mark.slow
@pytest.mark.parametrize("upscale", [2, 4])
def test_openvino_agrees_with_onnx_runtime(folder: Path, upscale: int) -> None:
    """Also on its factors: in an INT8 graph OpenVINO takes a count for quantized, unless kept."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    usual = lowered_x2("cpu", "int8")  # INT8 wherever ranges allow it
    output = usual if upscale == 2 else lowered(folder, upscale, "int8")[0]
    images = CalibrationImages.of([folder / "images"], upscale)
    with (
        open_session(output, backend="openvino") as found,
        open_session(output, backend="cpu") as expected,
    ):
        for photograph in images:
            lr = photograph.lr.transpose(2, 0, 1)[None].astype(np.float32)
            ours, theirs = (session.run({"lr": lr})["sr"] for session in (found, expected))
            error = np.mean((ours.astype(np.float64) - theirs) ** 2)
            assert 10 * np.log10(255**2 / error) > LEAST_PARITY_DB, photograph.name
            assert np.abs(ours - theirs).max() < 8


@pytest.mark.slow
def test_openvino_has_the_factors_of_onnx_runtime(folder: Path) -> None:
    """A factor is far off where a count of pixels is."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    made = int8_for(folder, "cpu")
    proto = made.lowering.lowered("whole", made.int8, factors=True).model
    (photograph, *_) = made.lowering.images
    lr = photograph.lr.transpose(2, 0, 1)[None].astype(np.float32)
    ours, theirs = (
        open_session(proto.SerializeToString(), backend=backend).run({"lr": lr})
        for backend in ("openvino", "cpu")
    )
    names = [name for name in theirs if name != "sr"]
    assert len(names) == 8
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0.03, err_msg=name)


def _has_vnni() -> bool:
    found = Path("/proc/cpuinfo")
    flags = found.read_text().split() if found.exists() else []
    return bool({"avx512_vnni", "avx_vnni"} & set(flags))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not _has_vnni(), reason="the CPU multiplies no INT8 at once (VNNI)")
@pytest.mark.parametrize("upscale", [2, 4])
def test_int8_is_faster_on_openvino(folder: Path, upscale: int) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    output, _ = lowered(folder, upscale, "int8")
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 270, 480)).astype(np.float32)
    seconds: dict[Path, list[float]] = {bundled(upscale): [], output: []}
    sessions = {path: open_session(path, backend="openvino") for path in seconds}
    for _ in range(2):
        for session in sessions.values():
            session.run({"lr": lr})
    for _ in range(9):
        for path, session in sessions.items():
            begin = time.perf_counter()
            session.run({"lr": lr})
            seconds[path].append(time.perf_counter() - begin)
    single, quantized = (statistics.median(runs) for runs in seconds.values())
    assert single / quantized >= LEAST_SPEEDUP, f"{single:.3f} s to {quantized:.3f} s"
