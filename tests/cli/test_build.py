"""`adadm build` as a user runs it, with TensorRT for RTX, which needs no GPU to build."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from importlib import resources
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from _support.exports import exported
from _support.refused import int32_bias
from _support.slow import slow_unless
from _support.waiting import finish, started
from adadm.export import Options
from adadm.runtime import build_engine
from adadm.runtime.cli import run
from adadm.runtime.engines.manifest import read_engine, read_manifest
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.files import sha256_of
from adadm.runtime.records import digest_of

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

COMMAND = Path(sys.executable).with_name("adadm")
MODELS = Path(str(resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx")).parent


def adadm(*arguments: str | Path, target: str = "tensorrt-rtx", gpu: str = "SM89") -> int:
    options = [*map(str, arguments), "--target", target]
    if target == "tensorrt-rtx" and "--compute-capability" not in options:
        options += ["--compute-capability", gpu]
    return run("adadm build", build_engine.main, options)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    _, proto, _ = exported("edsr", 2, Options())
    path = tmp_path / "größer als zuvor 超解像" / "ein modell ☂.onnx"
    path.parent.mkdir()
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("gpu", slow_unless(lambda gpu: gpu == "SM89", ["SM86", "SM89", "SM120"]))
def test_builds_the_bundled_models_for(gpu: str, tmp_path: Path) -> None:
    for form in ("", ".tile", ".moments"):
        model = MODELS / f"edsr_adadm_x2{form}.onnx"
        engine = tmp_path / f"x2{form}.engine"
        assert adadm(model, "-o", engine, "--opt", "1x64x80", gpu=gpu) == 0
        plan, manifest = read_engine(engine)
        assert manifest is not None and len(plan) == manifest.engine_bytes > 1e6
        assert manifest.model_sha256 == sha256_of(model)
        assert manifest.compute_capabilities == (gpu,)
        assert manifest.metadata["adadm.upscale"] == "2"
        assert "adadm.channel_maps" not in manifest.metadata
        assert manifest.profiles[0]["lr"] == Profile(
            (1, 3, 48, 60), (1, 3, 64, 80), (1, 3, 80, 100)
        )
        assert manifest.activation_bytes and manifest.activation_bytes[0] > 80 * 100 * 3 * 4


def test_profiles_of_all_inputs_follow_the_sizes(tmp_path: Path) -> None:
    engine = tmp_path / "x.engine"
    sizes = ["--min", "1x20x30", "--opt", "2x40x50", "--max", "3x60x70"]
    assert adadm(MODELS / "edsr_adadm_x2.moments.onnx", "-o", engine, *sizes) == 0
    (profile,) = read_manifest(engine).profiles
    assert {name: shape.optimum for name, shape in profile.items()} == {
        "lr": (2, 3, 40, 50),
        "rows_inside": (2, 1, 40, 1),
        "columns_inside": (2, 1, 1, 50),
        "std": (2, 8, 1, 1),
    }
    assert profile["columns_inside"].minimum == (1, 1, 1, 30)
    assert profile["rows_inside"].maximum == (3, 1, 60, 1)


def test_memory_is_told_for_each_profile(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--opt", "1x32x32", "--opt", "1x128x128"]
    assert adadm(model, "-o", tmp_path / "x.engine", *sizes) == 0
    small, large = read_manifest(tmp_path / "x.engine").activation_bytes or ()
    assert large > 2 * small
    said = capsys.readouterr().err
    assert f"profile 0, 1x3x24x24 to 1x3x40x40: {small / 1e6:.1f} MB" in said
    assert f"profile 1, 1x3x96x96 to 1x3x160x160: {large / 1e6:.1f} MB" in said


def change_a_weight(model: Path) -> None:
    """The same graph, the same size: one float."""
    proto = onnx.load(model)
    weight = next(i for i in proto.graph.initializer if i.name == "body.0.conv1.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[7] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, model)


def test_what_is_up_to_date_is_left_and_what_changed_is_built_anew(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = model.with_name("eine maschine ☂.engine")
    sizes = ("--opt", "1x200x200")
    for gpu, options, built in (
        ("SM89", (), True),
        ("SM89", (), False),
        ("SM89", ("--force",), True),
        ("SM89", sizes, True),
        ("SM86", sizes, True),
        ("SM86", (*sizes, "--workspace", "512"), True),
    ):
        assert adadm(model, "-o", engine, *options, gpu=gpu) == 0
        assert ("up to date" in capsys.readouterr().out) == (not built)
    assert read_manifest(engine).model == model.name
    before = engine.read_bytes()
    change_a_weight(model)
    assert adadm(model, "-o", engine, *sizes, "--workspace", "512", gpu="SM86") == 0
    assert engine.read_bytes() != before
    assert read_manifest(engine).model_sha256 == sha256_of(model)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("tensorrt-rtx", "--timing-cache cache", "times nothing"),
        ("jetson-orin-jp62", "", "adadm bundle --target jetson-orin-jp62"),
        ("tensorrt10", "", "pip install"),
        ("jetson-orin-jp51", "", "--opset 17 --modulator inline"),
        ("tensorrt-rtx", "--compute-capability SM87", "expected a GPU of tensorrt-rtx (SM75, "),
        ("tensorrt-rtx", "--compute-capability 8.9", "SM121), got 8.9"),
        ("tensorrt-rtx", "--min 1x300x300 --opt 1x200x200", "expected --min <= --opt"),
        (
            "tensorrt-rtx",
            "--opt 1x20x20 --opt 1x30x30 --max 1x40x40",
            "--max as often as --opt (2 times), got 1",
        ),
        ("tensorrt-rtx", "--adopt missing.plan", "missing.plan"),
        ("tensorrt-rtx", "--adopt empty.plan", "empty.plan is empty"),
    ],
)
def test_what_cannot_be_built_is_explained(
    target: str,
    options: str,
    said: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model.parent)
    Path("empty.plan").touch()
    assert adadm(model, "-o", "out/x.engine", *options.split(), target=target) == 1
    assert said in capsys.readouterr().err
    assert not Path("out/x.engine").exists()


def test_a_bad_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.write_bytes(model.read_bytes()[:-1000])
    assert adadm(model, "-o", tmp_path / "out" / "x.engine") == 1
    assert "is not a complete ONNX model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lines_for_trtexec(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--opt", "1x64x64", "--print-command"]
    engine = tmp_path / "my x2.engine"
    assert adadm(model, "-o", engine, *options, target="jetson-orin-jp62") == 0
    building, timing = capsys.readouterr().out.split("\n\n")
    for part in ("--stronglyTyped", "--noTF32", "--optShapes=lr:1x3x64x64", "my x2.engine'"):
        assert part in building
    for part in ("--useCudaGraph", "--shapes=lr:1x3x64x64", "--loadEngine="):
        assert part in timing
    assert not engine.exists()


def test_lines_for_trtexec_have_a_default_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert adadm("x2", "--print-command", target="jetson-orin-jp62") == 0
    assert "--saveEngine=edsr_adadm_x2.engine " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["64x64", "1x0x64", "1x64x64x3", "large"])
def test_sizes_that_are_none_are_usage(text: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        adadm(model, "-o", tmp_path / "x.engine", "--opt", text)


def test_a_model_of_one_size_has_no_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, proto, _ = exported("edsr", 2, Options(static=(1, 40, 56)))
    onnx.save(proto, tmp_path / "static.onnx")
    assert adadm(tmp_path / "static.onnx", "-o", tmp_path / "x.engine") == 0
    assert read_manifest(tmp_path / "x.engine").profiles == ()
    arguments = (tmp_path / "static.onnx", "-o", tmp_path / "x.engine")
    assert adadm(*arguments, "--print-command", target="jetson-orin-jp62") == 0
    assert adadm(*arguments, "--opt", "1x40x56", "--min", "1x40x56", "--max", "1x40x56") == 0
    capsys.readouterr()
    assert adadm(*arguments, "--opt", "1x64x64") == 1
    assert "takes only (1, 40, 56) (N, H, W)" in capsys.readouterr().err


def test_what_the_parser_refuses_is_named_and_the_log_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(int32_bias(), tmp_path / "bad.onnx")
    engine = tmp_path / "out" / "x.engine"
    assert adadm(tmp_path / "bad.onnx", "-o", engine) == 1
    assert "node dequant" in capsys.readouterr().err
    assert [path.name for path in engine.parent.iterdir()] == ["x.engine.log"]
    assert "dequant" in (engine.parent / "x.engine.log").read_text()
    assert adadm(MODELS / "edsr_adadm_x2.onnx", "-o", engine) == 0
    assert not (engine.parent / "x.engine.log").exists()


def test_two_builds_at_once(tmp_path: Path) -> None:
    engine = tmp_path / "out" / "x2.engine"
    command = [str(COMMAND), "build", str(MODELS / "edsr_adadm_x2.onnx"), "-o", str(engine)]
    command += ["--target", "tensorrt-rtx", "--compute-capability", "SM89"]
    with started(command) as first, started(command) as second:
        both = [finish(process) for process in (first, second)]
    assert [code for code, _, _ in both] == [0, 0], both
    assert sorted("wrote" in text for _, text, _ in both) == [False, True], both
    read_engine(engine)
    assert sorted(p.name for p in engine.parent.iterdir()) == ["x2.engine", "x2.engine.json"]


# A build that tells the steps of TensorRT.
TELLING = """
import sys
from adadm.runtime import cli
from adadm.runtime.progress import Bar
Bar.advance = lambda self, done, total, note: print(note, flush=True)
sys.exit(cli.main(["build", *sys.argv[1:]]))
"""


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Many profiles for every GPU: it is stopped long before the end."""
    engine = tmp_path / "out" / "x4.engine"
    command = [sys.executable, "-c", TELLING, str(MODELS / "edsr_adadm_x4.onnx")]
    command += ["-o", str(engine), "--target", "tensorrt-rtx"]
    for side in range(64, 124):
        command += ["--opt", f"1x{side}x{side}"]
    with started(command) as process:
        assert process.stdout is not None and process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        code, _, errors = finish(process)
    assert code == 1
    assert "adadm build: stopped" in errors
    assert list(engine.parent.iterdir()) == []


def test_an_engine_of_trtexec_is_adopted(model: Path, tmp_path: Path) -> None:
    """With a plan of TensorRT for RTX in the place of trtexec's."""
    assert adadm(model, "-o", tmp_path / "built.engine") == 0
    plan = tmp_path / "x.plan"
    shutil.copy(tmp_path / "built.engine", plan)
    assert adadm(model, "-o", tmp_path / "x.engine", "--adopt", plan) == 0
    built, adopted = (read_manifest(tmp_path / f"{name}.engine") for name in ("built", "x"))
    assert adopted.key == built.key and adopted.engine_sha256 == built.engine_sha256


def test_the_ledger_of_a_lowered_model_comes_along(tmp_path: Path) -> None:
    """And another model's, or one that was changed, does not."""
    proto = onnx.load(MODELS / "edsr_adadm_x2.onnx")
    noted = {
        "precision": "fp16",
        "target": "tensorrt-rtx",
        "images_sha256": "5e" * 32,
        "budget_db": 0.005,
        "int8": [],
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = "adadm.quantization", json.dumps(noted)
    onnx.save(proto, tmp_path / "x.onnx")
    sealed, other = (
        {**report, "sha256": digest_of(report)}
        for digest in ("5e" * 32, "7a" * 32)
        for report in [{**noted, "calibration": {"images_sha256": digest}, "lost_db": 0.0003}]
    )
    for report, expected in ((sealed, sealed), (other, None), ({**sealed, "lost_db": 0}, None)):
        (tmp_path / "x.json").write_text(json.dumps(report))
        engine = tmp_path / "x.engine"
        assert adadm(tmp_path / "x.onnx", "-o", engine, "--force") == 0
        manifest = read_manifest(engine)
        assert manifest.ledger == expected
        assert (manifest.precision, manifest.calibration_sha256) == ("fp16", "5e" * 32)
