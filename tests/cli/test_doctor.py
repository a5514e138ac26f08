"""`adadm doctor` as a user runs it, and what it says of machines that are not this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import psutil
import pytest
import tomllib
from onnx import numpy_helper
from packaging.requirements import Requirement

from _support.file_size_limit import files_at_most
from adadm.runtime import doctor
from adadm.runtime.backends import BACKENDS
from adadm.runtime.checks.check import Observation
from adadm.runtime.checks.device_info import device_info
from adadm.runtime.checks.inference import check_backends
from adadm.runtime.checks.machine import check_disks, check_gpu, check_memory
from adadm.runtime.checks.packages import check_extras, check_python, install_command
from adadm.runtime.checks.tensorrt_install import (
    TensorRT,
    check_jetson,
    check_targets,
    check_trtexec,
)
from adadm.runtime.cli import run
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.models.onnx_reader import OnnxFile, read_onnx
from adadm.runtime.sessions.openvino_session import OpenVINOSession
from adadm.runtime.targets import TARGETS

COMMAND = Path(sys.executable).with_name("adadm")
ROOT = Path(__file__).resolve().parents[2]
NOTHING = TensorRT({}, {})

no_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is here")


@pytest.fixture(scope="module")
def model() -> OnnxFile:
    return read_onnx(bundled_path("x2"))


def info_of(**changes: Any) -> dict[str, Any]:
    """This machine, but for what is changed."""
    return {**device_info(), **changes}


def with_gpu(capability: str = "SM89") -> dict[str, Any]:
    gpu = {"name": "NVIDIA L4", "compute_capability": capability, "driver": "550.54.15"}
    return info_of(gpu={**gpu, "cuda_of_driver": "12.4"})


def strict(text: str) -> Any:
    """JSON as its standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def named(checks: list[Observation], name: str) -> Observation:
    (check,) = (check for check in checks if check.name == name)
    return check


def doctor_at(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Exit code, and what was written."""
    code = run("adadm doctor", doctor.main, ["--json", str(tmp_path / "found.json")])
    return code, strict((tmp_path / "found.json").read_text())


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """Metadata of a distribution, as pip leaves it."""
    path = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    path.parent.mkdir(parents=True)
    head = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}")
    path.write_text("\n".join([*head, *lines]) + "\n")


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


def test_each_extra_is_that_of_the_project() -> None:
    """Against another parser, on the file that the metadata comes from."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]

    def names(extra: str) -> set[str]:
        found = set()
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == project["name"]:
                found |= set().union(*map(names, requirement.extras))
            else:
                found |= {requirement.name, *(f"pyvips-{e}" for e in requirement.extras)}
        return found

    checks = {check.name: check for check in check_extras()}
    assert set(checks) == {f"extra {extra}" for extra in project["optional-dependencies"]}
    for extra in project["optional-dependencies"]:
        assert set(checks[f"extra {extra}"].details["versions"]) == names(extra)
    assert checks["extra openvino"].details["versions"]["openvino"] in openvino.__version__


def test_a_base_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the metadata of the toolkit is found, then some of what it asks for."""
    lines = [f"Provides-Extra: {extra}" for extra in ("some", "other", "both")]
    lines += [
        "Requires-Dist: numpy>=1.24",
        'Requires-Dist: aaa>=2.9; extra == "some"',
        "Requires-Dist: bbb[fast]>=1 ; extra == 'some'",
        "Requires-Dist: old-python-only; python_version < '3' and extra == 'some'",
        'Requires-Dist: ccc; extra == "other"',
        'Requires-Dist: adadm-deploy[other,some]; extra == "both"',
    ]
    install(tmp_path, "adadm-deploy", "9.9", *lines)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    some, other, both = check_extras()
    assert (some.found, some.verdict) == ("no aaa, no bbb", "missing")
    assert some.advice == "pip install 'adadm-deploy[some]'"
    assert set(both.details["versions"]) == {"aaa", "bbb", "ccc"}
    install(tmp_path, "aaa", "2.10.1+cpu")
    install(tmp_path, "bbb", "1.0", "Requires-Dist: bbb-fast ; extra == 'fast'")
    install(tmp_path, "ccc", "0.1")
    some, other, both = check_extras()
    assert (some.found, some.verdict) == ("aaa 2.10.1+cpu, bbb 1.0, no bbb-fast", "missing")
    assert (other.found, other.verdict, other.advice) == ("ccc 0.1", "ok", None)
    install(tmp_path, "bbb-fast", "3")
    shutil.rmtree(tmp_path / "aaa-2.10.1+cpu.dist-info")
    install(tmp_path, "aaa", "2.8.9")
    some, other, both = check_extras()
    assert some.verdict == both.verdict == "broken"
    assert "aaa 2.8.9, older than 2.9" in some.found


def test_sources_that_are_only_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert check_extras() == []
    check = check_python(info_of())
    assert (check.verdict, check.advice) == ("missing", "pip install adadm-deploy")


def test_two_onnx_runtimes_are_in_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert install_command("gpu").startswith("pip uninstall -y onnxruntime && pip install")
    install(tmp_path, "onnxruntime-gpu", "1.31.0")
    monkeypatch.syspath_prepend(tmp_path)
    for extra in ("cpu", "gpu", "quantize"):
        check = named(check_extras(), f"extra {extra}")
        assert check.verdict == "broken"
        assert "both onnxruntime and onnxruntime-gpu" in check.found
        both = "pip uninstall -y onnxruntime onnxruntime-gpu && "
        assert check.advice == f"{both}pip install 'adadm-deploy[{extra}]'"


def test_onnx_runtime_for_gpus_has_all_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "Provides-Extra: cpu",
        'Requires-Dist: onnxruntime>=1.20; extra == "cpu"',
        "Provides-Extra: gpu",
        'Requires-Dist: onnxruntime-gpu>=1.20; extra == "gpu"',
    ]
    install(tmp_path, "adadm-deploy", "9.9", *lines)
    install(tmp_path, "onnxruntime-gpu", "1.31.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert {(check.found, check.verdict) for check in check_extras()} == {
        ("onnxruntime-gpu 1.31.0", "ok")
    }


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


def test_a_backend_that_computes_something_else(
    model: OnnxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.load(model.path)
    weight = next(i for i in proto.graph.initializer if i.name == "body.0.conv1.weight")
    values = numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    changed = proto.SerializeToString()
    monkeypatch.setitem(BACKENDS, "openvino", lambda _, threads: OpenVINOSession(changed, threads))
    check = check_backends(model, info_of(), NOTHING)["openvino"]
    assert check.verdict == "broken"
    assert check.found.startswith("unlike cpu, 60 dB are asked: openvino (1, 3, 48, 48)")
    assert check.advice == "pip install --force-reinstall 'adadm-deploy[openvino]'"


def test_whatever_a_backend_raises_is_a_finding(
    model: OnnxFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: object, threads: int) -> Any:
        raise RuntimeError("illegal instruction\nand more of it")

    monkeypatch.setitem(BACKENDS, "cpu", fail)
    checks = check_backends(model, info_of(), NOTHING)
    assert checks["cpu"].found == "RuntimeError: illegal instruction"
    assert checks["cpu"].verdict == "broken"
    assert checks["cpu"].details["message"].endswith("and more of it")
    assert checks["openvino"].verdict == "ok"
    assert checks["openvino"].details["compared_with"] is None


@no_gpu
@pytest.mark.parametrize(
    ("capability", "extra"), [("SM89", "rtx"), ("SM90", "tensorrt"), (None, "rtx")]
)
def test_advice_for_tensorrt_fits_the_gpu(capability: str, extra: str, model: OnnxFile) -> None:
    info = with_gpu(capability)
    checks = check_backends(model, info, NOTHING)
    for check in (check_targets(NOTHING, info), checks["engine"]):
        assert check.verdict == "missing"
        assert check.advice == f"pip install 'adadm-deploy[{extra}]'"
    assert checks["cuda"].verdict == "missing"
    assert checks["cuda"].advice == install_command("gpu")


@no_gpu
def test_cuda_that_is_newer_than_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "cuda-bindings", "13.0.1")
    monkeypatch.syspath_prepend(tmp_path)
    check = check_gpu(with_gpu())
    assert check.verdict == "broken"
    assert check.found.startswith("NVIDIA L4, SM89, driver 550.54.15, CUDA 12.4; CUDA: ")
    assert check.advice == "pip install 'cuda-bindings==12.*'"


def test_a_gpu_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    check = check_gpu(with_gpu())
    assert check.verdict == "missing"
    assert check.advice == "pip install 'adadm-deploy[jetson]'"


def test_little_memory(model: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, per_pixel = json.loads(model.metadata["adadm.memory"])["cpu"]
    needed = fixed + per_pixel * 10**6
    for free, verdict in ((needed, "ok"), (needed - 1, "missing")):
        there = SimpleNamespace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda there=there: there)
        check = check_memory(model)
        assert check.verdict == verdict
        assert check.details["needed_bytes"] == needed
    assert check.advice is not None and "--tile" in check.advice


def test_a_disk_that_is_nearly_full(model: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    temporary, cache = check_disks(model)
    assert (temporary.verdict, cache.verdict) == ("missing", "missing")
    assert (temporary.advice, cache.advice) == (
        "export TMPDIR=FOLDER",
        "export XDG_CACHE_HOME=FOLDER",
    )
    assert "1 MiB free in" in temporary.found
    assert temporary.details["needed_bytes"] == 7 * model.path.stat().st_size


def test_folders_that_cannot_be_written(
    model: OnnxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with files_at_most(0):
        temporary, cache = check_disks(model)
    assert (temporary.verdict, cache.verdict) == ("broken", "broken")
    assert "No usable temporary directory" in temporary.found
    assert f"{tmp_path / 'file' / 'adadm'} cannot be written" in cache.found


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("adadm doctor", doctor.main, ["--json", str(tmp_path)]) == 1
    assert f"directory: '{tmp_path}'" in capsys.readouterr().err


@pytest.fixture
def jetson(tmp_path: Path) -> Callable[[str, str], Path]:
    def make(board: str, release: str) -> Path:
        root = tmp_path / "root"
        major, _, revision = release.partition(".")
        for name, text in (
            ("proc/device-tree/model", f"{board}\0"),
            ("etc/nv_tegra_release", f"# R{major} (release), REVISION: {revision}, GCID: 1\n"),
        ):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text(text)
        return root

    return make


ORIN, THOR = "NVIDIA Jetson AGX Orin Developer Kit", "NVIDIA Jetson AGX Thor Developer Kit"


def test_a_fresh_jetson(
    jetson: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    root = jetson(ORIN, "36.4.3")
    trtexec = root / "usr/src/tensorrt/bin/trtexec"
    trtexec.parent.mkdir(parents=True)
    trtexec.write_text("#!/bin/sh\n")
    trtexec.chmod(0o755)
    found = doctor.examine(root=root)
    check = named(found.checks, "jetson")
    assert check.found.startswith(f"{ORIN}, L4T 36.4.3: jetson-orin-jp62, TensorRT 10.3; it is not")
    assert check.verdict == "missing"
    assert check.advice is not None and "apt install python3-libnvinfer" in check.advice
    assert named(found.checks, "trtexec").found == str(trtexec)
    assert "onnxruntime-gpu" in str(found.backends["cuda"].advice)
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("board", "l4t", "target"),
    [
        ("NVIDIA Jetson Xavier NX Developer Kit", "35.4.1", "jetson-xavier-jp51"),
        (ORIN, "35.2.1", "jetson-orin-jp51"),
        (ORIN, "35.6.2", "jetson-orin-jp51"),
        (ORIN, "36.3.0", "jetson-orin-jp60"),
        (ORIN, "36.4.0", "jetson-orin-jp62"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "36.5.0", "jetson-orin-jp62"),
        (ORIN, "39.2.0", "jetson-orin-jp72"),
        (THOR, "38.2.0", "jetson-thor-jp71"),
        (THOR, "38.4.0", "jetson-thor-jp71"),
        (THOR, "39.2.1", "jetson-thor-jp72"),
        (ORIN, "35.1.0", None),  # JetPack 5.0
        (ORIN, "38.4.0", None),
        ("NVIDIA Jetson Nano Developer Kit", "32.7.1", None),
        (ORIN, "45.1.0", None),
    ],
)
def test_which_target_a_jetson_is(
    board: str, l4t: str, target: str | None, model: OnnxFile, jetson: Callable[[str, str], Path]
) -> None:
    info = device_info(jetson(board, l4t))
    (check,) = check_jetson(TensorRT.here(model), info)
    assert check.details == {"board": board, "l4t": l4t, "target": target}
    if target is None:
        assert check.advice == "adadm build --help"


def test_a_jetson_is_known_by_its_gpu_too(model: OnnxFile) -> None:
    gpu = {"name": None, "compute_capability": "SM72", "driver": None, "cuda_of_driver": None}
    info = info_of(board="Jetson-AGX", l4t="35.4.1", gpu=gpu)
    (check,) = check_jetson(TensorRT.here(model), info)
    assert check.details["target"] == "jetson-xavier-jp51"


def test_a_container_may_not_know_its_l4t(model: OnnxFile) -> None:
    (check,) = check_jetson(TensorRT.here(model), info_of(board=ORIN))
    assert f"{ORIN}, L4T unknown: none of jetson-xavier-jp51" in check.found


def test_another_tensorrt_than_that_of_the_jetson(
    model: OnnxFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ModuleType("tensorrt")
    other.__version__ = "10.9.0.34"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", other)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    tensorrt = TensorRT.here(model)
    assert str(tensorrt) == "TensorRT 10.9.0.34"
    (check,) = check_jetson(tensorrt, info_of(board=ORIN, l4t="36.4.3"))
    assert check.verdict == "broken"
    assert "this machine has TensorRT 10.9.0.34, jetson-orin-jp62 has 10.3" in check.found


def test_the_tensorrt_of_the_jetson() -> None:
    refusals = dict.fromkeys(("jetson-orin-jp62", "tensorrt10"))
    tensorrt = TensorRT({"tensorrt": "10.3.0"}, {**refusals})
    (check,) = check_jetson(tensorrt, info_of(board=ORIN, l4t="36.4.3"))
    assert (check.verdict, check.advice) == ("ok", None)
    assert check.found.endswith("jetson-orin-jp62, TensorRT 10.3; TensorRT 10.3.0 is here")


@no_gpu
def test_tensorrt_without_a_gpu_builds_nothing(
    model: OnnxFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all refusals the one that is not about a version."""
    other = ModuleType("tensorrt")
    other.__version__ = "11.1.0.100"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", other)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    check = check_targets(TensorRT.here(model), info_of())
    assert check.verdict == "broken"
    assert check.found.startswith("CUDA: ")
    assert check.advice == "nvidia-smi"


def test_a_tensorrt_of_no_target(model: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("tensorrt")
    other.__version__ = "10.0.1.6"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", other)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    check = check_targets(TensorRT.here(model), info_of())
    assert check.verdict == "broken"
    assert "this machine has TensorRT 10.0.1.6, tensorrt10 has 10.3" in check.found
    assert check.advice == "pip install --upgrade 'adadm-deploy[tensorrt]'"


def test_a_tensorrt_that_cannot_be_loaded(
    model: OnnxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    check = check_targets(TensorRT.here(model), info_of())
    assert check.verdict == "broken"
    assert check.found == "OSError: libnvinfer.so.10: cannot open"
    assert check.advice == "pip install --force-reinstall 'adadm-deploy[tensorrt]'"


def test_tensorrt_for_rtx_builds_without_a_gpu(model: OnnxFile) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    tensorrt = TensorRT.here(model)
    assert TARGETS["tensorrt-rtx"] in tensorrt.targets
    check = check_targets(tensorrt, info_of())
    assert check.verdict == "ok"
    assert "TensorRT for RTX" in check.found and "tensorrt-rtx" in check.found


def test_where_trtexec_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_trtexec(NOTHING, tmp_path) == []
    (check,) = check_trtexec(TensorRT({"tensorrt": "10.3.0"}, {}), tmp_path)
    assert (check.verdict, check.advice) == ("missing", "sudo apt install libnvinfer-bin")
    (tmp_path / "trtexec").write_text("#!/bin/sh\n")
    (tmp_path / "trtexec").chmod(0o755)
    (check,) = check_trtexec(NOTHING, tmp_path)
    assert (check.found, check.verdict) == (str(tmp_path / "trtexec"), "ok")


@pytest.mark.gpu
def test_an_engine_is_built_and_run(model: OnnxFile) -> None:
    tensorrt = TensorRT.here(model)
    if not tensorrt.targets:
        pytest.skip(str(tensorrt.refusal))
    check = check_backends(model, info_of(), tensorrt)["engine"]
    assert check.verdict == "ok", check.details
    assert check_gpu(info_of()).verdict == "ok"
