from __future__ import annotations

import json
from pathlib import Path

import pytest

from _support.scripts import ROOT, load_script
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.cli import run
from adadm.runtime.images.arrays import write_image

evaluate = load_script("evaluate")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, photo in photographs(("astronaut", "coffee")).items():
        write_image(tmp_path / "photos" / f"{name}.png", photo[100:245, 150:311])
    return tmp_path / "photos"


def scores_of(model: Path, folder: Path, tmp_path: Path) -> dict[str, float]:
    report = tmp_path / "scores.json"
    assert run("evaluate.py", evaluate.main, [str(model), str(folder), "--json", str(report)]) == 0
    scores: dict[str, float] = json.loads(report.read_text())["scores"][0]
    return scores


def test_checkpoint_and_onnx_score_the_same_and_above_bicubic(folder: Path, tmp_path: Path) -> None:
    checkpoint = scores_of(ROOT / "export/checkpoints/edsr_adadm_x2.safetensors", folder, tmp_path)
    onnx = scores_of(ROOT / "runtime/models/edsr_adadm_x2.onnx", folder, tmp_path)
    assert onnx["psnr_db"] == pytest.approx(checkpoint["psnr_db"], abs=1e-3)
    assert onnx["ssim"] == pytest.approx(checkpoint["ssim"], abs=1e-4)
    assert onnx["psnr_db"] > onnx["bicubic_psnr_db"] + 1
    assert onnx["ssim"] > onnx["bicubic_ssim"] + 0.005


def test_a_model_without_our_metadata_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    model = onnx.load(ROOT / "runtime/models/edsr_adadm_x2.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    assert run("evaluate.py", evaluate.main, [str(tmp_path / "bare.onnx"), str(folder)]) == 1
    assert "no metadata 'adadm.upscale'; export it with adadm" in capsys.readouterr().err


def test_backends_score_the_same(folder: Path, tmp_path: Path) -> None:
    model = str(ROOT / "runtime/models/edsr_adadm_x2.onnx")
    report = tmp_path / "scores.json"
    found = {}
    for backend in ("cpu", "openvino"):
        arguments = [model, str(folder), "--backend", backend, "--json", str(report)]
        assert run("evaluate.py", evaluate.main, arguments) == 0
        written = json.loads(report.read_text())
        found[backend] = written["scores"][0]["psnr_db"]
        assert written["run"] == backend
    assert found["openvino"] == pytest.approx(found["cpu"], abs=1e-3)
