"""`verify.py` of a bundle where adadm-deploy is not installed: it runs the wheels, nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from _support.waiting import finish, started

SCRIPTS = resources.files("adadm.deployment.bundling.device_files")
WHEEL = "adadm_deploy-9.9-py3-none-any.whl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose wheel, of a version that is nowhere installed, only says that it ran."""
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    wheel = folder / "wheels" / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("adadm/runtime/verify.py", "import sys\nmain = lambda argv: 0\n")
        archive.writestr(
            "adadm/runtime/cli.py", "def run(*_):\n    print('the wheel ran')\n    return 0\n"
        )
    manifest = {"adadm": "9.9", "files": {f"wheels/{WHEEL}": sha256(wheel)}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    shutil.copy(str(SCRIPTS / "verify.py"), folder)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command(folder: Path) -> list[str]:
    return [sys.executable, "-S", str(folder / "verify.py")]  # -S: adadm-deploy is not installed


def verify(folder: Path) -> str:
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(folder: Path) -> str:
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


def library(folder: Path) -> Path:
    (found,) = folder.glob("lib-*")
    return found


def test_the_wheels_are_unpacked_once(folder: Path) -> None:
    assert verify(folder) == "the wheel ran\n"
    made = library(folder)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert verify(folder) == "the wheel ran\n"
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert sorted(folder.iterdir()) == sorted(
        [made, folder / "MANIFEST.json", folder / "verify.py", folder / "wheels"]
    )


@pytest.mark.parametrize("change", ["edited", "added", "compiled", "linked", "missing", "replaced"])
def test_what_was_changed_since_is_not_run(folder: Path, tmp_path: Path, change: str) -> None:
    verify(folder)
    made = library(folder)
    evil = "print('something else ran')\n"
    cli = made / "adadm" / "runtime" / "cli.py"
    if change == "edited":
        cli.write_text(evil + cli.read_text())
    elif change == "added":
        (made / "hashlib.py").write_text(evil)
        (made / "json.py").write_text(evil)
    elif change == "compiled":  # Python takes the bytecode whose source has that size and time
        (cli.parent / "__pycache__").mkdir()
        (cli.parent / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"")
    elif change == "linked":
        cli.rename(tmp_path / "cli.py")
        cli.symlink_to(tmp_path / "cli.py")
    elif change == "missing":
        cli.unlink()
    else:
        made.rename(tmp_path / "moved")
        made.symlink_to(tmp_path / "moved")
        (tmp_path / "moved" / "adadm" / "runtime" / "cli.py").write_text(evil)
    assert verify(folder) == "the wheel ran\n"
    assert not library(folder).is_symlink()
    assert sorted(p.name for p in library(folder).rglob("*.py*")) == ["cli.py", "verify.py"]


def test_a_run_that_was_killed_while_unpacking_is_made_good(folder: Path) -> None:
    verify(folder)
    library(folder).rename(library(folder).with_suffix(".partial"))
    next(folder.glob("lib-*.partial/adadm/runtime/*")).unlink()
    assert verify(folder) == "the wheel ran\n"
    assert library(folder).suffix == ""


def test_several_at_once_all_work(folder: Path) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(started(command(folder))) for _ in range(6)]
        for process in running:
            assert finish(process) == (0, "the wheel ran\n", "")
    assert library(folder).is_dir()


def test_a_wheel_that_is_another_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(next((folder / "wheels").iterdir()), "a") as archive:
        archive.writestr("sitecustomize.py", "print('something else ran')\n")
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "differs from MANIFEST.json" in done.stderr
    assert not list(folder.glob("lib-*"))


MANIFESTS = [
    b"{",
    b"\xff",
    b"[" * 100_000,
    b"[]",
    b"{}",
    b'{"adadm": "9.9"}',
    b'{"adadm": "9.9", "files": 3}',
    b'{"files": {}, "adadm": ' + b"1" * 5000 + b"}",
]


@pytest.mark.parametrize("content", MANIFESTS)
@pytest.mark.parametrize("script", ["verify.py", "compare_outputs.py"])
def test_a_manifest_that_is_none_is_one_message(folder: Path, script: str, content: bytes) -> None:
    shutil.copy(str(SCRIPTS / script), folder / "verify.py")
    (folder / "MANIFEST.json").write_bytes(content)
    said = refused(folder)
    assert said.startswith("verify.py: MANIFEST.json cannot be read: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"references": 3},
        {"references": [{"name": "a"}]},
        {"references": [{"name": "a", "form": "other", "psnr_db": {}}]},
        {"references": [{"name": "a", "form": "whole", "psnr_db": {"sr": "high"}}]},
        {"engines": ["model.engine"]},
    ],
)
def test_a_reference_that_does_not_fit_is_one_message(folder: Path, fields: dict[str, Any]) -> None:
    shutil.copy(str(SCRIPTS / "compare_outputs.py"), folder / "verify.py")
    manifest = {"target": "t", "precision": "fp16", "files": {}, "references": []}
    named = {"models": {"whole": "model.onnx"}, "engines": {"whole": "model.engine"}}
    (folder / "MANIFEST.json").write_text(json.dumps({**manifest, **named, **fields}))
    assert refused(folder).startswith("verify.py: MANIFEST.json cannot be read: ")


def test_what_is_not_of_the_bundle_is_named_without_our_runtime(folder: Path) -> None:
    shutil.copy(str(SCRIPTS / "compare_outputs.py"), folder / "verify.py")
    files = {name: sha256(folder / name) for name in ("verify.py", f"wheels/{WHEEL}")}
    reference = {"name": "a", "form": "whole", "psnr_db": {}}
    manifest: dict[str, Any] = {"target": "t", "precision": "fp16", "models": {"whole": "m.onnx"}}
    manifest |= {"files": files, "engines": {"whole": "m.engine"}, "references": [reference]}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "outputs").mkdir()
    for name in ("m.engine", "outputs/whole.a.json", "outputs/whole.a.log", "m.engine.log"):
        (folder / name).write_text("[]")
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "passed\n")
    (folder / "a note").write_text("of the user")
    (folder / "struct.py").write_text("raise SystemExit('something else ran')")
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "note: a note is not part of the bundle\n"
        "FAILED: could be imported in place of a module: struct.py is not part of the bundle\n"
        "FAILED\n"
    )


@pytest.mark.parametrize("damage", ["cut", "method", "names"])
def test_a_wheel_that_cannot_be_unpacked_is_one_message(folder: Path, damage: str) -> None:
    wheel = folder / "wheels" / WHEEL
    if damage == "names":  # a file where a folder must be
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("adadm/runtime/cli.py/x.py", "")
    elif damage == "method":
        content = bytearray(wheel.read_bytes())
        content[content.rindex(b"PK\1\2") + 10] = 99
        wheel.write_bytes(content)
    else:
        wheel.write_bytes(wheel.read_bytes()[:-30])
    manifest = {"adadm": "9.9", "files": {f"wheels/{WHEEL}": sha256(wheel)}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    said = refused(folder)
    assert said.startswith("verify.py: the wheels cannot be unpacked: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("installed", "said"),
    [(None, "but it is not installed"), ("0.1", "but 0.1 is installed")],
)
def test_what_is_missing_is_said(folder: Path, installed: str | None, said: str) -> None:
    shutil.rmtree(folder / "wheels")
    packages = folder.parent / "packages"
    if installed is not None:
        noted = packages / f"adadm_deploy-{installed}.dist-info" / "METADATA"
        noted.parent.mkdir(parents=True)
        noted.write_text(f"Metadata-Version: 2.1\nName: adadm-deploy\nVersion: {installed}\n")
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(
        command(folder), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"expected adadm-deploy 9.9, {said}, and this folder has no wheels" in done.stderr
