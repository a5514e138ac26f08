"""What an engine is refused for, down to the GPU that is not here; tests/gpu runs engines."""

from __future__ import annotations

import hashlib
import sys
from importlib import resources, util
from pathlib import Path

import pytest

from adadm.runtime import Upscaler
from adadm.runtime.backends import open_session
from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.engine_session import TensorRTSession
from adadm.runtime.engines.manifest import Manifest, write_engine
from adadm.runtime.engines.tensorrt_api import (
    Flavour,
    Profile,
    Settings,
    build_engine,
    load_tensorrt,
)
from adadm.runtime.errors import EngineError, MissingDependencyError, SessionError

PLAN = bytes(range(256)) * 8
PROFILE = {"lr": Profile((1, 3, 24, 24), (1, 3, 32, 32), (1, 3, 48, 64))}

needs_rtx = pytest.mark.skipif(
    util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


def written(path: Path, plan: bytes, flavour: Flavour = "rtx", tensorrt: str = "1.7.1.116") -> Path:
    manifest = Manifest(
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        model="x2.onnx",
        model_sha256="1" * 64,
        calibration_sha256=None,
        target="tensorrt-rtx",
        precision="float32",
        flavour=flavour,
        tensorrt=tensorrt,
        compute_capabilities=("SM89",),
        profiles=(PROFILE,),
        flags={},
        activation_bytes=None,
        metadata={"adadm.upscale": "2"},
        ledger=None,
    )
    write_engine(path, plan, manifest)
    return path


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes to TensorRT or CUDA is another error than what is expected."""
    for name in ("cuda.bindings.runtime", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_damaged_engine_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    engine = written(tmp_path / "x2.engine", PLAN)
    flipped = bytearray(PLAN)
    flipped[1000] ^= 1
    engine.write_bytes(flipped)
    for trust in (False, True):
        with pytest.raises(
            EngineError, match=r"x2\.engine is damaged, or .* to a different engine"
        ):
            TensorRTSession(engine, trust=trust)


@pytest.mark.usefixtures("nothing_installed")
def test_an_engine_without_a_manifest_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    engine = tmp_path / "x2.engine"
    with pytest.raises(EngineError, match=r"x2\.engine cannot be read: No such file"):
        TensorRTSession(engine)
    engine.write_bytes(PLAN)
    with pytest.raises(EngineError, match=r"has no manifest x2\.engine\.json .*a plan is code"):
        TensorRTSession(engine)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("flavour", "package"), [("tensorrt", "tensorrt"), ("rtx", "tensorrt-rtx")]
)
def test_the_tensorrt_that_an_engine_needs_is_named(
    flavour: Flavour, package: str, tmp_path: Path
) -> None:
    message = rf"^{package} is not installed, .*'adadm-deploy\[{flavour}\]'"
    with pytest.raises(MissingDependencyError, match=message):
        TensorRTSession(written(tmp_path / "x2.engine", PLAN, flavour))
    (tmp_path / "bare.engine").write_bytes(PLAN)
    with pytest.raises(MissingDependencyError, match=message):
        TensorRTSession(tmp_path / "bare.engine", trust=True, flavour=flavour)


@needs_rtx
def test_a_missing_cuda_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    engine = written(tmp_path / "x2.engine", PLAN)
    with pytest.raises(MissingDependencyError, match=r"'adadm-deploy\[jetson\]'"):
        TensorRTSession(engine)


@pytest.fixture(scope="module")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundled network, for a GPU that is not here."""
    if util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    model = (resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx").read_bytes()
    built = build_engine(model, [PROFILE], "rtx", settings=Settings(compute_capabilities=("SM89",)))
    path = tmp_path_factory.mktemp("engine") / "x2.engine"
    return written(path, built.plan, tensorrt=load_tensorrt("rtx").__version__)


def test_without_a_gpu_it_says_so(real_engine: Path, tmp_path: Path) -> None:
    if cuda_runtime.driver_version() is not None:
        pytest.skip("there is a driver here")
    bare = tmp_path / "bare.plan"
    bare.write_bytes(real_engine.read_bytes())
    for attempt in (
        lambda: TensorRTSession(real_engine),
        lambda: TensorRTSession(bare, trust=True, flavour="rtx"),
        lambda: open_session(real_engine, backend="auto"),
        lambda: open_session(real_engine, backend="engine"),
        lambda: Upscaler(real_engine),
    ):
        with pytest.raises(SessionError, match="this machine has no NVIDIA driver"):
            attempt()
