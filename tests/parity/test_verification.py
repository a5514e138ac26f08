"""The diagnosis of a bundle that fails, and what needs the onnx package or TensorRT."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from _support.bundles import FACTOR_TOLERANCE, bundled, edit_manifest, feeds_of, sign, write_bundle
from _support.exports import exported
from _support.profiles import built
from adadm.export import Options
from adadm.export.passes import ExposeFactors
from adadm.runtime import verify as command
from adadm.runtime.bundles.bundle import Bundle
from adadm.runtime.bundles.diagnosis import diagnose
from adadm.runtime.bundles.verification import Verification, verify
from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.manifest import read_engine
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import MissingDependencyError, SessionError
from adadm.runtime.progress import Progress
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

BLOCKS = 8


def _split(model: ir.Model) -> tuple[bytes, bytes]:
    """A model with its factors hidden, and the patch that makes outputs of them."""
    ExposeFactors()(model)
    proto, patch = ir.to_proto(model), onnx.ModelProto()
    patch.graph.output.extend(v for v in proto.graph.output if v.name.startswith("factor_"))
    for value in patch.graph.output:
        proto.graph.output.remove(value)
    return proto.SerializeToString(), patch.SerializeToString()


@functools.cache
def _parts() -> tuple[bytes, bytes]:
    return _split(ir.from_proto(onnx.load_from_string(bundled())))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, patch = _parts()
    return write_bundle(tmp_path_factory.mktemp("made") / "bundle", {"whole": model}, patch)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def _verified(folder: Path) -> Verification:
    return verify(Bundle.open(folder), "cpu", 0.01)


def _diagnosis(folder: Path) -> str:
    found = _verified(folder)
    assert not found.report.passed
    assert found.report.diagnosis is not None
    return found.report.diagnosis


def _alter_tensor(folder: Path, name: str, by: float) -> None:
    """Add to one float of a tensor, in the file as it is."""
    path = folder / "model.onnx"
    content = path.read_bytes()
    (raw,) = (
        t.raw_data for t in onnx.load_from_string(content).graph.initializer if t.name == name
    )
    assert content.count(raw) == 1
    values = np.frombuffer(raw, np.float32).copy()
    values[len(values) // 2] += by
    path.write_bytes(content.replace(raw, values.tobytes()))


def _factors(model: bytes) -> list[float]:
    outputs = OnnxRuntimeSession(model).run(feeds_of("whole")["waves"])
    return [outputs[f"factor_{index}"].item() for index in range(BLOCKS)]


def test_the_model_with_hidden_factors_passes(folder: Path) -> None:
    found = _verified(folder)
    assert found.report.passed
    assert found.report.diagnosis is None
    assert [list(outcome.comparisons) for outcome in found.outcomes] == [["sr"], ["sr"]]
    assert (folder / "model.factors.patch").stat().st_size < 100 * BLOCKS


@pytest.mark.parametrize("signed", [False, True], ids=["as found", "digests updated"])
@pytest.mark.parametrize(
    ("tensor", "block", "where"),
    [
        ("head.0.weight", 0, "before the first block"),
        ("body.3.conv1.weight", 4, "in block 3, or between the two"),
        ("body.3.conv2.weight", 4, "in block 3, or between the two"),
    ],
)
def test_the_first_block_that_differs_is_named(
    folder: Path, tensor: str, block: int, where: str, signed: bool
) -> None:
    _alter_tensor(folder, tensor, by=30)
    if signed:
        sign(folder)
    model, patch = _parts()
    expected = _factors(model + patch)
    found = _factors((folder / "model.onnx").read_bytes() + patch)
    largest = _largest_factors(folder)
    off = [abs(a - b) / most for a, b, most in zip(found, expected, largest, strict=True)]
    assert max(off[:block], default=0) == 0
    assert off[block] > FACTOR_TOLERANCE
    report = _verified(folder).report
    assert report.changed_files == (() if signed else ("model.onnx",))
    assert report.diagnosis is not None
    assert report.diagnosis.startswith(
        f"block {block}: factor {found[block]:.4g}, expected {expected[block]:.4g} "
        f"({off[block]:.2%} off, limit 0.40%)"
    )
    assert report.diagnosis.endswith(where)


def _largest_factors(folder: Path) -> list[float]:
    files = [np.load(path) for path in (folder / "reference").glob("*.npz")]
    return [max(abs(file[f"factor_{index}"].item()) for file in files) for index in range(BLOCKS)]


def test_other_places_are_named(folder: Path) -> None:
    """After the last block, and a factor that is no number."""
    _alter_tensor(folder, "tail.0.0.collapsed.weight", by=3)
    assert _diagnosis(folder).startswith("all 8 factors agree to 0.40%: the difference is after")
    _replace_arrays(folder, factor_2=np.full((1, 1, 1, 1), np.nan, np.float32))
    assert re.match(r"block 2: factor [\d.]+, expected nan \(nan% off", _diagnosis(folder))


def test_a_weight_that_is_no_number(folder: Path) -> None:
    _alter_tensor(folder, "body.5.conv2.weight", by=float("nan"))
    assert re.match(r"block 6: factor 0, expected \d", _diagnosis(folder))


def test_a_model_that_agrees_once_its_factors_are_outputs(folder: Path) -> None:
    bundle = Bundle.open(folder)
    result = diagnose(bundle, bundle.references[0], "cpu")
    assert result.startswith("the same model with the factors as outputs agrees")


def _replace_arrays(folder: Path, **arrays: npt.NDArray[np.float32]) -> None:
    path = folder / "reference" / "whole.waves.npz"
    with np.load(path) as content:
        np.savez(path, **{**content, **arrays})


def _drop_factors(folder: Path) -> None:
    path = folder / "reference" / "whole.waves.npz"
    with np.load(path) as content:
        np.savez(path, lr=content["lr"], sr=content["sr"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.factors.patch").unlink(), "No such file.*factors.patch"),
        (
            lambda folder: (folder / "model.factors.patch").write_bytes(b"\x0b"),
            "not a complete ONNX model",
        ),
        (_drop_factors, r"whole\.waves\.npz: expected factor_0, factor_1"),
        (
            lambda folder: _replace_arrays(folder, factor_0=np.zeros((2, 1, 1, 1), np.float32)),
            r"factor_0: expected \(2, 1, 1, 1\) as in the reference, got \(1, 1, 1, 1\)",
        ),
    ],
)
def test_a_diagnosis_that_fails_hides_nothing(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    _alter_tensor(folder, "head.0.weight", by=1)
    damage(folder)
    found = _verified(folder)
    assert found.outcomes[0].comparisons["sr"] is not None
    assert found.report.diagnosis is not None
    assert re.match(f"not localized: .*{message}", found.report.diagnosis)


def test_factors_of_several_images_in_uint8(tmp_path: Path) -> None:
    _, proto, _ = exported("edsr", 2, Options(io="uint8"))
    model, patch = _split(ir.from_proto(proto))
    rng = np.random.default_rng(0)
    images = {"noise": {"lr": rng.integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)}}
    folder = write_bundle(tmp_path / "bundle", {"whole": model}, patch, {"whole": images})
    assert _verified(folder).report.passed
    _alter_tensor(folder, "body.0.conv2.weight", by=30)
    assert _diagnosis(folder).startswith("block 1: factor")


# What follows builds with TensorRT for RTX, as far as that goes without a GPU.


def _gpu() -> str | None:
    try:
        return cuda_runtime.compute_capability()
    except (MissingDependencyError, SessionError):
        return None


def _write_plan(folder: Path) -> None:
    profile = {"lr": Profile((1, 3, 40, 40), (1, 3, 48, 56), (1, 3, 64, 64))}
    (folder / "model.engine.plan").write_bytes(
        built(onnx.load(folder / "model.onnx"), profile).plan
    )


def test_a_plan_becomes_an_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_plan(folder)
    plan = (folder / "model.engine.plan").read_bytes()
    command.main([str(folder), "--record"])
    assert capsys.readouterr().out == f"wrote {folder / 'model.engine'}\n"
    assert not (folder / "model.engine.plan").exists()
    content, manifest = read_engine(folder / "model.engine")
    assert content == plan
    assert manifest is not None
    assert manifest.profiles == Bundle.open(folder).profiles["whole"]
    assert manifest.flags["workspace_bytes"] == Bundle.open(folder).workspace_bytes
    assert manifest.model_sha256 == Bundle.open(folder).digest("model.onnx")
    assert Bundle.open(folder).changed_files() == []


def test_an_engine_of_another_model_is_a_changed_file(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    (folder / "model.engine.plan").write_bytes(b"plan")
    shipped = (folder / "model.onnx").read_bytes()
    _alter_tensor(folder, "head.0.weight", by=30)
    command.main([str(folder), "--record"])
    assert Bundle.open(folder).changed_files() == ["model.engine", "model.onnx"]
    (folder / "model.onnx").write_bytes(shipped)
    assert Bundle.open(folder).changed_files() == ["model.engine"]


@pytest.mark.skipif(_gpu() is not None, reason="of a machine without a GPU")
def test_without_a_gpu_the_model_is_run_and_that_is_said(folder: Path) -> None:
    _write_plan(folder)
    command.main([str(folder), "--record"])
    found = verify(Bundle.open(folder), "auto", 0.01)
    assert found.report.passed
    assert found.report.backend == "cpu"
    assert re.match("the engine cannot run here: .*(CUDA|cuda)", found.report.reason or "")
    assert found.report.sha256["model.engine"]
    asked = verify(Bundle.open(folder), "engine", 0.01)
    assert not asked.report.passed
    assert all(re.search("CUDA|cuda", outcome.failures[0]) for outcome in asked.outcomes)
    assert asked.report.diagnosis is None


@pytest.mark.skipif(_gpu() is not None, reason="of a machine without a GPU")
def test_the_engine_of_a_diagnosis_is_built(folder: Path) -> None:
    _write_plan(folder)
    command.main([str(folder), "--record"])
    progress = Mock(spec=Progress)
    bundle = Bundle.open(folder)
    result = diagnose(bundle, bundle.references[0], "engine", progress=progress)
    progress.phase.assert_called_once_with(
        "building the engine again with the factors as outputs, which takes minutes"
    )
    assert re.match("not localized: .*(CUDA|cuda)", result)


def test_targets_that_build_elsewhere_record_nothing_here(folder: Path) -> None:
    edit_manifest(folder, target="jetson-orin-jp62")
    (folder / "model.engine.plan").write_bytes(b"plan")
    with pytest.raises(Exception, match="must be built on that device") as caught:
        command.main([str(folder), "--record"])
    assert type(caught.value).__name__ == "EngineError"
    assert (folder / "model.engine.plan").exists()
