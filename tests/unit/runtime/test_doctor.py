"""What `adadm doctor` says of machines that are not this one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from _support.file_size_limit import files_at_most
from adadm.runtime import doctor, json_format
from adadm.runtime.backends import BACKENDS
from adadm.runtime.checks.check import Observation
from adadm.runtime.checks.device_info import DeviceInfo, Gpu, device_info
from adadm.runtime.checks.inference import check_backends
from adadm.runtime.checks.machine import check_disks, check_gpu, check_memory
from adadm.runtime.checks.packages import check_extras, check_python, install_command
from adadm.runtime.checks.tensorrt_install import (
    TensorRT,
    check_jetson,
    check_targets,
    check_trtexec,
)
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.models.onnx_reader import OnnxFile, read_onnx
from adadm.runtime.sessions.openvino_session import OpenVINOSession
from adadm.runtime.targets import TARGETS
from adadm.runtime.upscaling.memory import memory_models

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")

ROOT = Path(__file__).resolve().parents[3]
NOTHING = TensorRT({}, {})
ALL = TensorRT({"tensorrt": "10.3.0"}, dict.fromkeys(TARGETS))

no_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is here")


@pytest.fixture(scope="module")
def model() -> OnnxFile:
    return read_onnx(bundled_path("x2"))


def info_of(**changes: Any) -> DeviceInfo:
    """This machine, but for what is changed."""
    return replace(device_info(), **changes)


def with_gpu(capability: str = "SM89") -> DeviceInfo:
    return info_of(gpu=Gpu("NVIDIA L4", capability, "550.54.15", "12.4"))


def named(checks: list[Observation], name: str) -> Observation:
    (check,) = (check for check in checks if check.name == name)
    return check


def judged(check: Observation) -> tuple[str, str | None]:
    return check.verdict, check.advice


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """Metadata of a distribution, as pip leaves it."""
    path = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    path.parent.mkdir(parents=True)
    head = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}")
    path.write_text("\n".join([*head, *lines]) + "\n")


def test_each_extra_is_that_of_the_project() -> None:
    """Against another parser, on the file that the metadata comes from."""
    tomllib, packaging = map(pytest.importorskip, ("tomllib", "packaging.requirements"))
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]

    def names(extra: str) -> set[str]:
        found = set()
        for line in project["optional-dependencies"][extra]:
            requirement = packaging.Requirement(line)
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
    assert "aaa 2.8.9, required >= 2.9" in some.found


def test_sources_that_are_only_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert check_extras() == []
    check = check_python(info_of())
    assert judged(check) == ("missing", "pip install adadm-deploy")


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


def test_a_backend_that_computes_something_else(
    model: OnnxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.load(model.path)
    weight = next(i for i in proto.graph.initializer if i.name == "body.0.conv1.weight")
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    changed = proto.SerializeToString()
    monkeypatch.setitem(BACKENDS, "openvino", lambda _, threads: OpenVINOSession(changed, threads))
    check = check_backends(model, info_of(), NOTHING)["openvino"]
    assert judged(check) == ("broken", "pip install --force-reinstall 'adadm-deploy[openvino]'")
    assert check.found.startswith("differs from cpu, 60 dB required: openvino (1, 3, 48, 48)")


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
        assert judged(check) == ("missing", f"pip install 'adadm-deploy[{extra}]'")
    assert judged(checks["cuda"]) == ("missing", install_command("gpu"))


@no_gpu
def test_cuda_that_is_newer_than_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "cuda-bindings", "13.0.1")
    monkeypatch.syspath_prepend(tmp_path)
    check = check_gpu(with_gpu())
    assert judged(check) == ("broken", "pip install 'cuda-bindings==12.*'")
    assert check.found.startswith("NVIDIA L4, SM89, driver 550.54.15, CUDA 12.4; CUDA: ")


def test_a_gpu_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert judged(check_gpu(with_gpu())) == ("missing", "pip install 'adadm-deploy[jetson]'")


def test_little_memory(model: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory_models(model.metadata)["cpu"].bytes_for(10**6)
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
    assert judged(temporary) == ("missing", "export TMPDIR=FOLDER")
    assert judged(cache) == ("missing", "export XDG_CACHE_HOME=FOLDER")
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
    assert f"{tmp_path / 'file' / 'adadm'} is not writable" in cache.found


ORIN, THOR = "NVIDIA Jetson AGX Orin Developer Kit", "NVIDIA Jetson AGX Thor Developer Kit"


def test_a_fresh_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    trtexec = tmp_path / "usr/src/tensorrt/bin/trtexec"
    for path, text in (
        (tmp_path / "proc/device-tree/model", f"{ORIN}\0"),
        (tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n"),
        (trtexec, "#!/bin/sh\n"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    trtexec.chmod(0o755)
    found = doctor.examine(root=tmp_path)
    check = named(found.checks, "jetson")
    assert check.found.startswith(f"{ORIN}, L4T 36.4.3: jetson-orin-jp62, TensorRT 10.3; it is not")
    assert check.verdict == "missing"
    assert check.advice is not None and "apt install python3-libnvinfer" in check.advice
    assert named(found.checks, "trtexec").found == str(trtexec)
    assert "onnxruntime-gpu" in str(found.backends["cuda"].advice)
    json_format.text(found.as_json())


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
def test_which_target_a_jetson_is(board: str, l4t: str, target: str | None) -> None:
    (check,) = check_jetson(ALL, info_of(board=board, l4t=l4t))
    assert check.details == {"board": board, "l4t": l4t, "target": target}
    if target is None:
        assert check.advice == "adadm build --help"


def test_a_jetson_is_known_by_its_gpu_too_and_may_not_know_its_l4t_in_a_container() -> None:
    gpu = Gpu(compute_capability="SM72")
    (check,) = check_jetson(ALL, info_of(board="Jetson-AGX", l4t="35.4.1", gpu=gpu))
    assert check.details["target"] == "jetson-xavier-jp51"
    (check,) = check_jetson(ALL, info_of(board=ORIN))
    assert f"{ORIN}, L4T unknown: none of jetson-xavier-jp51" in check.found


@pytest.fixture
def tensorrt_of(model: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TensorRT]:
    """What is found where a version of TensorRT is installed, and TensorRT for RTX is not."""

    def find(version: str) -> TensorRT:
        module = ModuleType("tensorrt")
        module.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        return TensorRT.here(model)

    return find


def test_a_jetson_has_the_tensorrt_of_its_target(tensorrt_of: Callable[[str], TensorRT]) -> None:
    orin, other = info_of(board=ORIN, l4t="36.4.3"), tensorrt_of("10.9.0.34")
    assert str(other) == "TensorRT 10.9.0.34"
    (check,) = check_jetson(other, orin)
    assert check.verdict == "broken"
    assert "expected TensorRT 10.3 for jetson-orin-jp62, got 10.9.0.34" in check.found
    (check,) = check_jetson(ALL, orin)
    assert judged(check) == ("ok", None)
    assert check.found.endswith("jetson-orin-jp62, TensorRT 10.3; installed: TensorRT 10.3.0")


@pytest.mark.parametrize(
    ("version", "found", "advice"),
    [
        # of all refusals the one that is not about a version
        pytest.param("11.1.0.100", "CUDA: ", "nvidia-smi", marks=no_gpu),
        (
            "10.0.1.6",
            "expected TensorRT 10.3 for tensorrt10, got 10.0.1.6",
            "pip install --upgrade 'adadm-deploy[tensorrt]'",
        ),
    ],
)
def test_a_tensorrt_that_builds_nothing(
    version: str, found: str, advice: str, tensorrt_of: Callable[[str], TensorRT]
) -> None:
    check = check_targets(tensorrt_of(version), info_of())
    assert judged(check) == ("broken", advice)
    assert found in check.found


def test_a_tensorrt_that_cannot_be_loaded(
    model: OnnxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    check = check_targets(TensorRT.here(model), info_of())
    assert judged(check) == ("broken", "pip install --force-reinstall 'adadm-deploy[tensorrt]'")
    assert check.found == "OSError: libnvinfer.so.10: cannot open"


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
    assert judged(check) == ("missing", "sudo apt install libnvinfer-bin")
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
