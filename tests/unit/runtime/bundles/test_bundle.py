from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _support.bundles import bundled, edit_manifest, sign, write_bundle
from adadm.runtime.bundles.bundle import Bundle, could_be_imported
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import EngineError
from adadm.runtime.targets import TARGETS

CASE = {"name": "a", "form": "whole", "file": "reference/whole.waves.npz", "psnr_db": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("made") / "bundle", {"whole": bundled()})


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def test_what_the_manifest_says(folder: Path) -> None:
    bundle = Bundle.open(folder)
    content = (folder / "MANIFEST.json").read_bytes()
    assert bundle.sha256 == hashlib.sha256(content).hexdigest()
    assert bundle.target is TARGETS["tensorrt-rtx"]
    assert bundle.models == {"whole": "model.onnx"}
    assert bundle.profiles["whole"] == (
        {"lr": Profile((1, 3, 40, 40), (1, 3, 48, 56), (1, 3, 64, 64))},
    )
    assert bundle.workspace_bytes == 2**28
    assert bundle.factors_patch is None
    first, second = bundle.references
    assert (first.name, first.variant, first.inputs) == ("waves", "whole", {"lr": (1, 3, 48, 56)})
    assert second.psnr_db == {"sr": 90.0}
    assert bundle.changed_files() == []
    assert bundle.arrays(first)["sr"].shape == (1, 3, 96, 112)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"MANIFEST\.json is missing; expected a folder made by"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format: expected 1, got 2; make the bundle again"),
        ({"target": "toaster"}, "target: expected one of jetson-xavier-jp51, .*, got 'toaster'"),
        ({"models": {"tile": "model.onnx"}}, "expected whole among them"),
        ({"engines": {}}, r"engines: expected the forms of the models, \['whole'\], got \[\]"),
        (
            {"profiles": {"whole": [{"lr": {"min": [0], "opt": [1], "max": [1]}}]}},
            "of 1 or more, got less",
        ),
        ({"references": []}, r"references: expected the forms .*, got \[\]"),
        ({"references": [{"name": "a"}]}, r"references\.0: expected form, a text"),
        ({"references": [{**CASE, "inputs": {"std": [1, 8, 1, 1]}}]}, "expected an input lr of 4"),
        ({"references": [{**CASE, "inputs": {"lr": [1, 3, 0, 5]}}]}, r"got \(1, 3, 0, 5\)"),
        ({"workspace_bytes": 0}, "workspace_bytes of 1 or more"),
        (
            {"factors_patch": "MANIFEST.json"},
            r"files: expected a digest of MANIFEST\.json, got none",
        ),
        ({"files": {}}, r"files: expected a digest of model\.onnx, reference/whole\.other\.npz, "),
        ({"files": {"../other": "0"}}, "expected files of the bundle, got '../other'"),
    ],
)
def test_a_field_that_does_not_fit(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_manifest(folder, **fields)
    with pytest.raises(EngineError, match=rf"MANIFEST\.json: .*{message}"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", ".", "", "a\0b", "link/passwd"])
def test_files_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("/etc")
    edit_manifest(folder, models={"whole": name})
    with pytest.raises(EngineError, match="expected files of the bundle, got"):
        Bundle.open(folder)


def test_changed_files(folder: Path) -> None:
    bundle = Bundle.open(folder)
    reference = folder / "reference" / "whole.other.npz"
    content = bytearray(reference.read_bytes())
    content[1000] ^= 1
    reference.write_bytes(content)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    assert bundle.changed_files() == ["model.onnx", "reference/whole.other.npz"]


def test_files_that_nobody_accounts_for_are_named(folder: Path) -> None:
    made = ["model.engine", "model.engine.json", "model.engine.plan", "model.engine.log"]
    made += ["result.json", "outputs/whole.waves.json", "outputs/whole.waves.log"]
    made += ["lib-0123456789ab/numpy/core.so", "lib-0123456789ab.partial/a.py"]
    strange = ["json.py", "numpy/__init__.py", "lib-other/a.py", "outputs/a.py", "reference/x.so"]
    plain = ["results.json", "other.engine", "model.onnx.log", "reference/x.npz", "e\x1b[31mn"]
    for name in (*made, *strange, *plain):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("more")
    (folder / "rich").symlink_to(folder.parent, target_is_directory=True)
    (folder / "hashlib.py").symlink_to("/nowhere")
    bundle = Bundle.open(folder)
    strange += ["rich/", "hashlib.py"]
    found = bundle.unlisted_files()
    assert found == sorted([*strange, *plain[:-1], r"e\x1b[31mn"])
    assert [name for name in found if could_be_imported(name)] == sorted(strange)
    assert bundle.changed_files() == []


def test_no_damage_of_a_reference_is_more_than_an_error(folder: Path) -> None:
    bundle = Bundle.open(folder)
    path = folder / "reference" / "whole.waves.npz"
    lr, sr = np.zeros((1, 3, 48, 56), np.float32), np.arange(4.0)
    np.savez_compressed(path, lr=lr, sr=sr)
    content = path.read_bytes()
    damaged = 0
    for index in range(len(content)):
        for bit in (0, 7):
            flipped = bytearray(content)
            flipped[index] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                arrays = bundle.arrays(bundle.references[0])
            except EngineError:
                damaged += 1
            else:  # in a date, or another field that nobody reads
                np.testing.assert_array_equal(arrays["sr"], sr)
    assert damaged > len(content)


def test_a_reference_that_is_not_as_the_manifest_says(folder: Path) -> None:
    bundle = Bundle.open(folder)
    first = bundle.references[0]
    path = folder / "reference" / "whole.waves.npz"
    path.unlink()
    with pytest.raises(EngineError, match=r"whole\.waves\.npz cannot be read: .*No such file"):
        bundle.arrays(first)
    lr, sr = np.zeros((1, 3, 48, 56), np.float32), np.zeros(1)
    for arrays, names, message in (
        ({"lr": lr}, ["factor_0"], r"whole\.waves\.npz: expected factor_0, sr too, got lr"),
        (
            {"lr": lr[..., :8, :8], "sr": sr},
            [],
            r"lr: expected \(1, 3, 48, 56\), got \(1, 3, 8, 8\)",
        ),
        ({"lr": np.array([{}]), "sr": sr}, [], "cannot be read: .*allow_pickle=False"),
        ({"lr": lr, "sr": np.array(["a"])}, [], "cannot be read: sr is not an array of numbers"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(EngineError, match=message):
            bundle.arrays(first, names)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lr", b"no array")
    with pytest.raises(EngineError, match="lr is not an array of numbers"):
        bundle.arrays(first)
    sign(folder)
    assert Bundle.open(folder).changed_files() == []


@pytest.mark.parametrize(
    "engine", ["model.onnx", "MANIFEST.json", "reference/whole.waves.npz", "sub/../model.onnx"]
)
def test_no_engine_takes_the_place_of_what_was_shipped(folder: Path, engine: str) -> None:
    """`verify.py --record` writes engines, and removes the plans that they are made of."""
    (folder / "sub").mkdir()
    edit_manifest(folder, engines={"whole": engine})
    with pytest.raises(EngineError, match=r"engines: expected names of their own, got "):
        Bundle.open(folder)


def test_no_plan_or_manifest_of_an_engine_is_what_was_shipped(folder: Path) -> None:
    for suffix in (".plan", ".json"):
        (folder / f"x.engine{suffix}").write_text("shipped")
    edit_manifest(folder, engines={"whole": "x.engine"})
    Bundle.open(folder)
    sign(folder)
    with pytest.raises(EngineError, match="expected names of their own"):
        Bundle.open(folder)
