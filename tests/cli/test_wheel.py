"""What a user of the wheel gets: the three packages, the command, the models, and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from _support.scripts import ROOT

LAYERS = ("export", "calibration", "deployment", "runtime")

pytest.importorskip("setuptools", minversion="77")


def test_the_wheel_has_everything_under_adadm(tmp_path: Path) -> None:
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    source = tmp_path / "source"
    source.mkdir()
    for layer in LAYERS:
        shutil.copytree(ROOT / layer, source / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("adadm_deploy-*-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"adadm"}
    expected = {
        f"adadm/{path.relative_to(source).as_posix()}"
        for layer in LAYERS
        for path in (source / layer).rglob("*")
        if path.suffix in {".py", ".typed", ".onnx"}
    }
    assert expected <= names
    assert {"adadm/runtime/models/edsr_adadm_x3.onnx", "adadm/export/to_onnx.py"} <= names
    checkpoints = {name for name in names if name.endswith(".safetensors")}
    assert checkpoints == {"adadm/export/checkpoints/edsr_adadm_x2.safetensors"}
