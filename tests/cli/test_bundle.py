"""`adadm bundle`, and what a device then does with the folder."""

from __future__ import annotations

import ast
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from _support.file_size_limit import files_at_most
from _support.lowered import lowered_small
from _support.slow import slow_unless
from adadm.deployment import bundle
from adadm.deployment.bundling.make_bundle import _whole_folder
from adadm.runtime.cli import run
from adadm.runtime.engines import trtexec
from adadm.runtime.errors import EngineError
from adadm.runtime.files import sha256_of
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.targets import TARGETS

MODELS = Path(str(resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx")).parent
FLOAT32 = MODELS / "edsr_adadm_x2.onnx"
JETSONS = [name for name, target in TARGETS.items() if target.jetpack]
OLD, NEW = "jetson-orin-jp51", "jetson-orin-jp62"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


def model_for(target: str, precision: str) -> Path:
    """Targets of one form read one file."""
    if precision == "float32":
        return FLOAT32
    form = OLD if TARGETS[target].typing == "weak" else "tensorrt10"
    return lowered_small(form, "int8" if precision == "int8" else "fp16")


@functools.cache
def made(folder: Path, target: str, precision: str) -> Path:
    """A bundle, made once; what alters it takes a copy."""
    output = folder / f"ein bündel {target} {precision}"
    assert adadm(model_for(target, precision), output, target) == 0
    return output


Copied = Callable[[str, str], Path]


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Copied:
    """A copy of a bundle for a target, in a precision."""
    return lambda *form: shutil.copytree(made(folder, *form), tmp_path / "bundle")


def adadm(model: Path, output: Path, target: str = NEW, *options: str) -> int:
    words = [str(model), "-o", str(output), "--target", target, "--no-wheels"]
    return run("adadm bundle", bundle.main, [*words, "--opt", "1x40x48", *options])


def python(script: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *options]
    if "adadm.runtime" in script.read_text():
        command += ["--seconds", "0.1"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def manifest(bundled: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundled / "MANIFEST.json").read_text())
    return found


def as_trtexec_writes(bundled: Path) -> None:
    """The outputs that build.sh has trtexec export, here from ONNX Runtime: six digits."""
    (bundled / "outputs").mkdir()
    found = manifest(bundled)
    for engine in found["engines"].values():
        (bundled / engine).write_bytes(b"an engine")
    for reference in found["references"]:
        arrays = np.load(bundled / reference["file"])
        session = OnnxRuntimeSession(bundled / found["models"][reference["form"]])
        outputs = session.run({name: arrays[name] for name in reference["inputs"]})
        listed = [
            f'{{ "name" : "{name}"\n  , "dimensions" : "{"x".join(map(str, value.shape))}"\n'
            f'  , "values" : [ {", ".join(f"{v:.6g}" for v in value.ravel())} ]\n  }}'
            for name, value in outputs.items()
        ]
        path = bundled / "outputs" / f"{reference['form']}.{reference['name']}.json"
        path.write_text("[\n  " + "\n, ".join(listed) + "\n]\n")


LOWERED = [(target, precision) for target in JETSONS for precision in ("fp16", "int8")]


def is_usual(target: str, precision: str) -> bool:
    """The older form; test_images_in_and_out has the newer one, and INT8."""
    return target == OLD and precision == "fp16"


@pytest.mark.parametrize(
    ("target", "precision"),
    slow_unless(is_usual, [*LOWERED, (OLD, "float32"), (NEW, "float32")]),
)
def test_a_bundle_verifies_itself(
    target: str, precision: str, copied: Copied, tmp_path: Path
) -> None:
    """On ONNX Runtime, which stands in for the engine; without Python 3.10, for trtexec."""
    bundled = copied(target, precision)
    found = manifest(bundled)
    assert (found["target"], found["precision"]) == (target, precision)
    assert found["models"].keys() == {"whole", "tile", "moments"}
    written = {p.relative_to(bundled).as_posix() for p in bundled.rglob("*") if p.is_file()}
    assert written == {"MANIFEST.json", *found["files"]}
    assert all(sha256_of(bundled / name) == digest for name, digest in found["files"].items())
    asked = [db for ref in found["references"] for db in ref["psnr_db"].values()]
    assert len(found["references"]) == 9 and min(asked) > {"int8": 35}.get(precision, 55)
    if not TARGETS[target].runs_runtime:
        as_trtexec_writes(bundled)
    result = python(bundled / "verify.py", "--json", tmp_path / "result.json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "result.json").read_text())
    assert report["passed"] and len(report["references"]) == 9
    readme = (bundled / "README.md").read_text()
    assert TARGETS[target].description in readme and "$" not in readme


@pytest.mark.parametrize("update", [False, True], ids=["as it is", "with its checksum"])
@pytest.mark.parametrize("target", [OLD, NEW])
def test_one_altered_weight_fails(
    target: str, update: bool, copied: Copied, tmp_path: Path
) -> None:
    """By its checksum, and, where somebody mended that, by what it computes."""
    bundled = copied(target, "fp16")
    path = bundled / "model.onnx"
    proto = onnx.load(path)
    weight = next(i for i in proto.graph.initializer if i.name.startswith("body.0.conv2.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[5, 7, 1, 1] += 40 * np.abs(values).max()
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, path)
    if update:
        found = manifest(bundled)
        found["files"]["model.onnx"] = sha256_of(path)
        (bundled / "MANIFEST.json").write_text(json.dumps(found))
    if target == OLD:
        as_trtexec_writes(bundled)
    result = python(bundled / "verify.py", "--json", tmp_path / "result.json")
    assert result.returncode == 1
    report = json.loads((tmp_path / "result.json").read_text())
    assert not report["passed"]
    assert report["changed_files"] == ([] if update else ["model.onnx"])
    if target == NEW:  # a block's factor comes from the trunk before it
        assert report["diagnosis"].startswith("block 1: factor"), report["diagnosis"]


@pytest.mark.parametrize(
    "output",
    [
        "{", "[1]", "[" * 100_000, "null", '[{"name": "sr"}]',
        '[{"name": "sr", "dimensions": 3, "values": []}]',
        '[{"name": "sr", "dimensions": "0", "values": []}]',
        '[{"name": "sr", "dimensions": "1x3x80x96", "values": [' + "9" * 400 + "]}]",
    ],
    ids=range(8),
)  # fmt: skip
def test_an_output_of_another_form_fails_in_one_line(output: str, copied: Copied) -> None:
    bundled = copied(OLD, "fp16")
    as_trtexec_writes(bundled)
    reference = manifest(bundled)["references"][0]
    path = bundled / "outputs" / f"{reference['form']}.{reference['name']}.json"
    path.write_text(output)
    result = python(bundled / "verify.py")
    assert (result.returncode, result.stderr) == (1, "")
    assert f"FAILED: {reference['form']}.{reference['name']}: " in result.stdout


@pytest.mark.parametrize(("target", "precision"), slow_unless(is_usual, LOWERED))
def test_what_the_script_would_do(target: str, precision: str, folder: Path) -> None:
    bundled = made(folder, target, precision)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, bundled / "build.sh"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    script = ["sh", str(bundled / "build.sh"), "--dry-run"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    built = [line.split("--onnx=")[1].split()[0] for line in lines if "--onnx=" in line]
    assert built == ["model.onnx", "model.tile.onnx", "model.moments.onnx"]
    known = trtexec.options_of(str(TARGETS[target].tensorrt))
    words = [word for line in lines if "trtexec" in line for word in line.split()]
    used = {word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")}
    assert used <= {name.removeprefix("--") for name in known}
    assert not list(bundled.glob("*.engine*"))


def test_a_device_that_is_another_builds_nothing(copied: Copied) -> None:
    """Before trtexec runs for minutes."""
    bundled = copied(NEW, "fp16")
    assert "TensorRT" in refused(build(bundled), bundled)


@pytest.mark.parametrize("target", [OLD, NEW])
@pytest.mark.parametrize("name", ["model.onnx", "model.tile.onnx", "model.moments.onnx"])
def test_trtexec_gets_no_model_that_is_not_as_shipped(
    target: str, name: str, copied: Copied
) -> None:
    bundled = copied(target, "fp16")
    model = onnx.load(bundled / name)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    (bundled / name).write_bytes(model.SerializeToString())
    said = refused(build(bundled), bundled)
    assert name in said and "shipped" in said


def test_the_log_of_trtexec_is_kept(copied: Copied) -> None:
    bundled = copied(OLD, "fp16")
    result = build(bundled, trtexec="echo 'Error: out of memory'; exit 1")
    assert result.returncode == 1
    assert "out of memory" in result.stderr and "model.engine.log" in result.stderr
    assert "out of memory" in (bundled / "model.engine.log").read_text()
    assert not (bundled / "outputs").exists()


def build(
    bundled: Path, trtexec: str = "touch built; exit 0", **programs: str
) -> subprocess.CompletedProcess[str]:
    """Run build.sh with a program in trtexec's place, as TRTEXEC allows."""
    program = bundled.parent / "program"
    program.write_text(f"#!/bin/sh\n{trtexec}\n")
    program.chmod(0o755)
    environment = {**os.environ, "TRTEXEC": str(program), "PYTHON": sys.executable, **programs}
    command = ["sh", str(bundled / "build.sh")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def refused(result: subprocess.CompletedProcess[str], bundled: Path) -> str:
    """What a build that runs no trtexec says."""
    assert result.returncode == 1 and not (bundled / "built").exists()
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", ["TRTEXEC", "PYTHON"])
@pytest.mark.parametrize("target", [OLD, NEW])
def test_a_program_that_is_missing_is_named(target: str, name: str, copied: Copied) -> None:
    bundled = copied(target, "fp16")
    said = refused(build(bundled, **{name: "/nowhere/program"}), bundled)
    assert f"/nowhere/program is not found; set {name}" in said


def test_outputs_of_an_older_engine_are_not_taken(copied: Copied) -> None:
    bundled = copied(OLD, "fp16")
    as_trtexec_writes(bundled)
    later = (bundled / "outputs" / "whole.astronaut.json").stat().st_mtime + 5
    os.utime(bundled / "model.engine", (later, later))
    result = python(bundled / "verify.py")
    assert result.returncode == 1 and "older than model.engine" in result.stdout


def test_infinities_of_trtexec_fail(copied: Copied) -> None:
    bundled = copied(OLD, "fp16")
    as_trtexec_writes(bundled)
    path = bundled / "outputs" / "tile.coffee.json"
    for word in ("nan", "-inf", "1e999"):
        text = path.read_text()
        path.write_text(text.replace('"values" : [ ', f'"values" : [ {word}, ', 1))
        result = python(bundled / "verify.py")
        assert result.returncode == 1 and "FAILED: tile.coffee" in result.stdout
        path.write_text(text)


def test_the_script_for_old_pythons_is_one() -> None:
    """JetPack 5 has Python 3.8, which is not here."""
    scripts = resources.files("adadm.deployment.bundling.device_files")
    text = (scripts / "compare_outputs.py").read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)}
    assert imported <= sys.stdlib_module_names
    assert "from __future__ import annotations" in text  # int | None is no type in 3.8


def test_raw_files_are_the_references(folder: Path) -> None:
    bundled = made(folder, NEW, "fp16")
    sizes = set()
    for reference in manifest(bundled)["references"]:
        arrays = np.load(bundled / reference["file"])
        case = f"{reference['form']}.{reference['name']}"
        for name in [*reference["inputs"], *reference["psnr_db"]]:
            raw = (bundled / "reference" / f"{case}.{name}.bin").read_bytes()
            assert raw == arrays[name].tobytes()
        sizes.add(arrays["lr"].shape[2:])
    assert sizes == {(40, 48), (30, 36), (35, 43)}  # usual, least, between and odd


def test_images_in_and_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lowered_small(NEW, "int8", "uint8")
    bundled = tmp_path / "bundle"
    assert adadm(model, bundled, NEW) == 0
    assert python(bundled / "verify.py").returncode == 0
    old = lowered_small(OLD, "fp16", "uint8")
    assert adadm(old, tmp_path / "old", OLD) == 1
    assert "--io float32" in capsys.readouterr().err


def test_a_model_for_another_form(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adadm(model_for(OLD, "fp16"), tmp_path / "bundle", NEW) == 1
    assert f"adadm quantize --target {NEW}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle's too: engines and results may be in it."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "MANIFEST.json").write_text("{}")
    model = model_for(NEW, "fp16")
    assert adadm(model, tmp_path / "taken") == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["MANIFEST.json"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert adadm(model, tmp_path / "link") == 0
    assert (tmp_path / "empty" / "build.sh").is_file()


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_a_folder_that_another_run_takes_meanwhile_is_left(tmp_path: Path, taken: str) -> None:
    output = tmp_path / "bundle"

    def make() -> None:
        with _whole_folder(output) as partial:
            (partial / "MANIFEST.json").write_text("ours")
            if taken == "folder":
                output.mkdir()
            (output / "MANIFEST.json" if taken == "folder" else output).write_text("theirs")

    with pytest.raises(EngineError, match="bundle exists and is not an empty folder"):
        make()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert {p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {"theirs"}


def test_a_full_disk_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_at_most(100_000):
        assert adadm(FLOAT32, tmp_path / "bundle") == 1
    assert "File too large" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def outside(path: Path) -> None:
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"../w1"))


def another(path: Path) -> None:
    shutil.copy(MODELS / "edsr_adadm_x4.tile.onnx", path.with_suffix(".tile.onnx"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [(outside, "../w1"), (another, "x.tile.onnx was exported from another")],
)
def test_a_bad_model(
    damage: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(FLOAT32, tmp_path / "x.onnx")
    damage(tmp_path / "x.onnx")
    before = sorted(tmp_path.iterdir())
    assert adadm(tmp_path / "x.onnx", tmp_path / "bundle") == 1
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_twice_the_same(folder: Path, tmp_path: Path) -> None:
    assert adadm(model_for(NEW, "fp16"), tmp_path / "again") == 0
    assert manifest(tmp_path / "again") == manifest(made(folder, NEW, "fp16"))


def with_wheels(folder: Path, target: str) -> Path:
    bundled = folder / "bundle"
    words = [str(FLOAT32), "-o", str(bundled), "--target", target, "--opt", "1x40x48"]
    assert run("adadm bundle", bundle.main, words) == 0
    return bundled


@pytest.mark.slow
def test_a_python_with_nothing_installed_verifies_it(tmp_path: Path) -> None:
    """From the wheels in the folder: of a target for this machine's Python."""
    bundled = with_wheels(tmp_path, "tensorrt10")
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    words = (bare / "bin" / "python", bundled / "verify.py", "--json", tmp_path / "r.json")
    command = [str(word) for word in words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "r.json").read_text())["passed"]
    wheel = next((bundled / "wheels").glob("rich-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1])
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "rich" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", [n for n in JETSONS if TARGETS[n].runs_runtime])
def test_wheels_for_the_device(target: str, tmp_path: Path) -> None:
    bundled = with_wheels(tmp_path, target)
    wheels = [path.name for path in (bundled / "wheels").iterdir()]
    tag = f"cp{str(TARGETS[target].python).replace('.', '')}"
    major = str(TARGETS[target].cuda).split(".")[0]
    assert any(w.startswith(f"cuda_bindings-{major}.") and tag in w for w in wheels)
    assert all("aarch64" in name or name.endswith("-none-any.whl") for name in wheels)
    for package in ("adadm_deploy", "numpy", "pillow", "rich", "psutil", "onnxruntime"):
        assert any(name.startswith(f"{package}-") for name in wheels), package
