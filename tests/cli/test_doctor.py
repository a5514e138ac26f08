"""`adadm doctor` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from adadm.runtime import doctor
from adadm.runtime.backends import BACKENDS
from adadm.runtime.cli import run

COMMAND = Path(sys.executable).with_name("adadm")


def strict(text: str) -> Any:
    """JSON as its standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def doctor_at(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Exit code, and what was written."""
    code = run("adadm doctor", doctor.main, ["--json", str(tmp_path / "found.json")])
    return code, strict((tmp_path / "found.json").read_text())


def test_a_machine_without_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [COMMAND, "doctor", "--json", tmp_path / "found.json"],
        capture_output=True,
        text=True,
        env={**environment, "COLUMNS": "300"},
    )
    assert result.returncode == 0, result.stderr
    found = strict((tmp_path / "found.json").read_text())
    assert found["working"] == ["cpu", "openvino"]
    assert found["device"]["versions"]["onnxruntime"] == onnxruntime.__version__
    checks = {check["name"]: check for check in found["checks"]}
    assert [name.removeprefix("backend ") for name in checks if name.startswith("backend")] == list(
        BACKENDS
    )
    assert checks["backend openvino"]["details"]["sr"]["psnr_db"] > 100
    assert checks["backend openvino"]["details"]["sr"]["peak"] < 400  # an image, and no blow-up
    for name in ("backend cuda", "backend engine", "gpu"):
        assert checks[name]["verdict"] == "missing"
        assert checks[name]["found"] in result.stdout
        assert "nvidia-smi" in checks[name]["advice"]
    assert f"onnxruntime {onnxruntime.__version__}" in checks["extra cpu"]["found"]
    assert checks["memory"]["verdict"] == checks["temporary files"]["verdict"] == "ok"
    for check in checks.values():
        assert (check["verdict"] == "ok") == (check["advice"] is None)
        assert any(
            check["name"] in line and check["verdict"] in line
            for line in result.stdout.splitlines()
        )


def test_no_backend_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    code, found = doctor_at(tmp_path)
    assert code == 1
    assert found["working"] == []
    checks = {check["name"]: check for check in found["checks"]}
    for backend in ("cpu", "openvino"):
        check = checks[f"backend {backend}"]
        assert (check["verdict"], check["advice"]) == (
            "missing",
            f"pip install 'adadm-deploy[{backend}]'",
        )
    assert "neither TensorRT nor TensorRT for RTX" in checks["targets"]["found"]
    printed = capsys.readouterr()
    assert "'adadm-deploy[openvino]'" in printed.out
    assert printed.err.endswith("begin with: pip install 'adadm-deploy[cpu]'\n")


def test_one_backend_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, found = doctor_at(tmp_path)
    assert (code, found["working"]) == (0, ["openvino"])
