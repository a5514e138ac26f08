"""Certificates with awkward figures, and crops to go with them, for the report."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from adadm.calibration.quality.ledger import StageResult
from adadm.deployment.certification.certificate import DeviceCertificate, ModelCertificate
from adadm.deployment.certification.report.crops import Crop
from adadm.runtime.bundles.case_results import Times
from adadm.runtime.checks.device_info import Clocks, DeviceInfo, Gpu
from adadm.runtime.errors import CalibrationError
from adadm.runtime.host import Cpu
from adadm.runtime.images.arrays import ImageArray
from adadm.runtime.json_format import Source, as_json, convert


def flat(red: int, green: int, blue: int, side: int = 24) -> ImageArray:
    return np.full((side, side, 3), (red, green, blue), np.uint8)


def crop(name: str, planted: int = 2, original: bool = True) -> Crop:
    """Noise, and the model's output off by `planted` levels, up or down, in a quarter of it."""
    rng = np.random.default_rng(planted)
    reference: ImageArray = rng.integers(40, 200, (48, 32, 3)).astype(np.uint8)
    output = reference.copy()
    output[:24:2, :16] += np.uint8(planted)
    output[1:24:2, :16] -= np.uint8(planted)
    before = (reference // 2) if original else None
    return Crop(name, 7, 120, f"largest error: {planted} levels", before, reference, output)


def certificate_of(content: dict[str, Any]) -> ModelCertificate | DeviceCertificate:
    """What is read of a file with this content."""
    source = Source(Path("certificate.json"), CalibrationError)
    if content["kind"] == "device":
        return convert(content, DeviceCertificate, source)
    return convert(content, ModelCertificate, source)


def model_certificate() -> dict[str, Any]:
    """Of an INT8 model that fails one check, and is infinitely good in another."""
    stages = [
        ("PyTorch", 35.76564, None, None, 0.0, None, None),
        ("folded", 35.76564, -2.83e-6, None, 0.0, None, None),
        ("FP16", 35.76522, 0.000418369, 78.2772, 0.207092, 5.32696e-07, 1),
        ("INT8", 34.35484, 1.41038, 61.4779, 2.6998, 0.0118624, 0),
    ]
    names = [field.name for field in dataclasses.fields(StageResult)]
    return {
        "format": 1,
        "kind": "model",
        "adadm": "0.1.0",
        "made": "2026-11-24T19:40:00+00:00",
        "passed": False,
        "failures": ["PSNR-Y lost is 1.41 dB (mean), required at most 0.02: keep more in FP16"],
        "place": {"where": "body.1.conv2", "block": 1, "text": "From block 1 on it is off."},
        "model": {
            "file": "../models/x2 int8.onnx",
            "sha256": _digest("model"),
            "bytes": 1234567,
            "precision": "int8",
            "backend": "cpu",
            "description": "17 of 19 convolutions in INT8",
            "architecture": "edsr",
            "upscale": 2,
            "rgb_range": 255.0,
            "io": "float32",
            "target": "tensorrt10",
            "checkpoint_sha256": _digest("checkpoint"),
            "companions": {"../models/x2 int8.tile.onnx": _digest("tile")},
        },
        "reference": {
            "file": "../x2.safetensors",
            "sha256": _digest("checkpoint"),
            "bytes": 987,
            "description": "the network in PyTorch",
        },
        "images": {
            "described": "2 of 41 photographs, whole",
            "originals": True,
            "tile": None,
            "digest": _digest("images"),
            "files": [{"name": "owl.png", "sha256": _digest("owl")}],
            "paths": ["photos"],
        },
        "thresholds": {"limits": {}, "given": {}},
        "accepted": ["sky"],
        "checks": [
            _check("PSNR-Y lost", 1.41042, "dB", 0.02, remedy="keep more in FP16", passed=False),
            _check("worst parity", None, "dB", 52.11, at_least=True, left_out=["sky"]),
            _check("border", -0.0507579, "dB", 3.0),
            _check("sky", 9.3, "dB", 1.0, passed=False, accepted=True),
        ],
        "ledger": {
            "photographs": 2,
            "stages": [dict(zip(names, stage, strict=True)) for stage in stages],
        },
        "photographs": [
            _photograph("owl.png", 61.5, 35.81, 34.4),
            _photograph("equal.png", None, 33.25, 33.25),
        ],
        "blocks": [
            _block(0, [19.17, 30.4, 38.1], [19.2, 30.5, 38.3], 0.0118624),
            _block(1, [14.38, 17.0, 21.5], [14.38, 17.0, 21.6], 5.32696e-07),
        ],
        "layers": [
            _layer("head.0", None, 71.9, None),
            _layer("body.0.conv1", 0, 39.2, 0.91),
            _layer("body.0.conv2", 0, None, 1.02),
            _layer("body.1.conv1", 1, 41.5, 0.83),
            _layer("body.1.conv2", 1, 9.3, 2.04),
        ],
        "speed": [
            _speed("reference, PyTorch", 1611.2, None),
            _speed("this model, cpu", 243.7, 187_300_000),
        ],
        "device": _device(),
        "versions": {"torch": "2.13.0"},
        "sha256": _digest("certificate"),
    }


def device_certificate() -> dict[str, Any]:
    """Of an engine that reproduces one reference of three."""
    rest = ("adadm", "made", "sha256", "model", "reference", "versions")
    content = {name: value for name, value in model_certificate().items() if name in rest}
    times = dataclasses.asdict(Times(213, 4.61, 4.58, 4.81, 5.9, 4.4, 7.2))
    failure = "sr: 31.2 dB; asked 50.0 dB"
    wrong = {"asked_psnr_db": 50.0, "psnr_db": 31.2, "largest_error": 61.3}
    equal = {"asked_psnr_db": 50.0, "psnr_db": None, "largest_error": 0.0}
    return {
        **content,
        "model": {**content["model"], "source_sha256": _digest("source")},
        "kind": "device",
        "format": 1,
        "passed": False,
        "failures": [f"whole coffee: {failure}"],
        "place": {"where": "see the text", "block": None, "text": "block 3 is the first"},
        "references": [
            _reference("coffee", {"sr": wrong}, failure),
            _reference("smallest", {"sr": equal}),
            _reference("flat", {"sr": {"asked_psnr_db": 48.0}}, "sr: the found output has nan"),
            _reference("tile", {}, "tile.engine is not there"),
        ],
        "latency": {"reference": "coffee", "end_to_end_ms": times, "kernels_ms": None},
        "reason": "it is there, TensorRT too",
        "accepted": [],
        "diagnosis": "block 3 is the first",
        "result": "result.json",
        "result_sha256": _digest("result"),
        "device": _device(),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check(name: str, figure: float | None, unit: str, limit: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "figure": figure,
        "unit": unit,
        "limit": limit,
        "at_least": False,
        "passed": True,
        "where": "owl.png",
        "remedy": "look into it",
        "left_out": [],
        "accepted": False,
        **more,
    }


def _photograph(
    name: str, parity_db: float | None, reference_db: float, model_db: float
) -> dict[str, Any]:
    return {
        "name": name,
        "parity_db": parity_db,
        "psnr_y_db": {"reference": reference_db, "model": model_db},
        "lost_db": reference_db - model_db,
        "largest_error": 0.0 if parity_db is None else 2.6998,
        "bicubic_db": 30.125,
        "limits": {"beyond": {}, "largest_error": 0.0},
    }


def _block(
    index: int, expected: list[float], found: list[float] | None, error: float | None
) -> dict[str, Any]:
    content = {"expected": expected, "found": found, "error": error}
    return {"block": index, "name": f"body.{index}", **content}


def _layer(
    name: str, block: int | None, isolated_db: float | None, range_use: float | None
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "Conv",
        "block": block,
        "precision": "FP16" if range_use is None else "INT8",
        "snr_db": 36.44,
        "isolated_db": isolated_db,
        "parameters_db": 50.0,
        "border_db": None,
        "interior_db": 50.0,
        "gain": 1.0,
        "largest_shift": 0.0044,
        "shifted_channel": 0,
        "shifted_levels": None,
        "range_use": range_use,
    }


def _speed(name: str, median_ms: float, peak_bytes: int | None) -> dict[str, Any]:
    return {
        "name": name,
        "lr_px": [320, 180],
        "median_ms": median_ms,
        "p90_ms": median_ms + 8,
        "megapixels_per_s": 230.4 / median_ms,
        "peak_bytes": peak_bytes,
    }


def _reference(name: str, outputs: dict[str, Any], *failures: str) -> dict[str, Any]:
    rest = {"passed": not failures, "failures": list(failures), "outputs": outputs}
    return {"name": name, "form": "whole", **rest}


def _device() -> dict[str, Any]:
    """A `DeviceInfo` of a Jetson."""
    gpu = Gpu(name="Orin", compute_capability="SM87", cuda_of_driver="12.6")
    device = DeviceInfo(
        board="NVIDIA Jetson Orin Nano",
        l4t="36.4.3",
        os="Ubuntu 22.04.5 LTS",
        machine="aarch64",
        cpu=Cpu(cores=6),
        memory_bytes=7_990_000_000,
        versions={"python": "3.10.12", "tensorrt": None},
        gpu=gpu,
        clocks_mhz=Clocks(cpu={"cpu0": 1728.0, "cpu1": 729.6}),
        power_mode="MAXN_SUPER",
    )
    content: dict[str, Any] = as_json(device)
    return content
