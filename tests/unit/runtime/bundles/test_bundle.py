from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _support.bundles import bundled, edit_manifest, sign, write_bundle
from adadm.runtime.bundles.bundle import Bundle
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import EngineError
from adadm.runtime.targets import TARGETS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("made") / "bundle", {"whole": bundled()})


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def _manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "MANIFEST.json").read_text())
    return content


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
    assert (first.name, first.form, first.inputs) == ("waves", "whole", {"lr": (1, 3, 48, 56)})
    assert second.psnr_db == {"sr": 90.0}
    assert bundle.changed_files() == []
    assert bundle.arrays(first)["sr"].shape == (1, 3, 96, 112)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"MANIFEST\.json cannot be read: No such file .* made"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "format is None, expected 1"),
        ('{"format": 2}', "format is 2, expected 1; make the bundle again"),
        ('{"format": true}', "format is True, expected 1"),
    ],
)
def test_no_manifest_of_ours(folder: Path, content: str, message: str) -> None:
    (folder / "MANIFEST.json").write_text(content)
    with pytest.raises(EngineError, match=message):
        Bundle.open(folder)


def test_every_field_is_needed(folder: Path) -> None:
    content = _manifest(folder)
    for name in content.keys() - {"format", "quantization"}:
        short = {key: value for key, value in content.items() if key != name}
        (folder / "MANIFEST.json").write_text(json.dumps(short))
        with pytest.raises(EngineError, match=rf"MANIFEST\.json: {name} is missing, expected"):
            Bundle.open(folder)
    for name in content["references"][0]:
        short = {key: value for key, value in content["references"][0].items() if key != name}
        edit_manifest(folder, **{**content, "references": [short]})
        with pytest.raises(EngineError, match=rf"MANIFEST\.json: .*{name} is missing, expected"):
            Bundle.open(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adadm": 1}, "adadm is 1, expected a text"),
        ({"target": "toaster"}, "target is 'toaster', expected one of jetson-xavier-jp51, "),
        ({"models": ["model.onnx"]}, "models is .*, expected files of the bundle by form"),
        ({"models": {"tile": "model.onnx"}}, "without whole"),
        ({"engines": {}}, r"engines are of the forms \[\], expected those of .* \['whole'\]"),
        (
            {"profiles": {"whole": [{"lr": {"min": [1]}}]}},
            "profiles is .*, expected shapes by form",
        ),
        ({"profiles": {"whole": [{"lr": {"min": [0], "opt": [1], "max": [1]}}]}}, "profiles is"),
        ({"profiles": {"whole": [{"lr": {"min": [1.5], "opt": [1], "max": [1]}}]}}, "profiles is"),
        ({"references": []}, r"references are of the forms \[\]"),
        ({"references": ["a"]}, "references: name is missing, expected a text"),
        ({"workspace_bytes": 0}, "workspace_bytes is 0, expected a number or null"),
        ({"workspace_bytes": 1.5}, "workspace_bytes is 1.5, expected a number or null"),
        ({"factor_tolerance": "a"}, "factor_tolerance is 'a', expected a number"),
        ({"factor_tolerance": True}, "factor_tolerance is True, expected a number"),
        ({"factor_tolerance": float("nan")}, "factor_tolerance is nan, expected a number"),
        ({"factors_patch": "MANIFEST.json"}, r"files has no digest of MANIFEST\.json"),
        ({"files": {}}, r"files has no digest of model\.onnx, reference/whole\.other\.npz, "),
        ({"files": {"../other": "0"}}, "files is .*, expected digests by file of the bundle"),
    ],
)
def test_a_field_that_does_not_fit(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_manifest(folder, **fields)
    with pytest.raises(EngineError, match=rf"MANIFEST\.json.*{message}"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", ".", "", "a\0b", "link/passwd"])
def test_files_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("/etc")
    edit_manifest(folder, models={"whole": name})
    with pytest.raises(EngineError, match=r"models is .*, expected files of the bundle"):
        Bundle.open(folder)


def test_changed_files(folder: Path) -> None:
    bundle = Bundle.open(folder)
    reference = folder / "reference" / "whole.other.npz"
    content = bytearray(reference.read_bytes())
    content[1000] ^= 1
    reference.write_bytes(content)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    (folder / "more").write_text("is no concern of the manifest")
    assert bundle.changed_files() == ["model.onnx", "reference/whole.other.npz"]


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
    np.savez(path, lr=np.zeros((1, 3, 48, 56), np.float32))
    with pytest.raises(EngineError, match=r"whole\.waves\.npz lacks factor_0, sr; it has lr"):
        bundle.arrays(first, ["factor_0"])
    np.savez(path, lr=np.zeros((1, 3, 8, 8), np.float32), sr=np.zeros(1))
    with pytest.raises(EngineError, match=r"lr is \(1, 3, 8, 8\), expected \(1, 3, 48, 56\)"):
        bundle.arrays(first)
    np.savez(path, lr=np.array([{}]), sr=np.zeros(1))
    with pytest.raises(EngineError, match=r"cannot be read: .*allow_pickle=False"):
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
    with pytest.raises(EngineError, match=r"the engines are to be .*, expected names of their own"):
        Bundle.open(folder)


def test_no_plan_or_manifest_of_an_engine_is_what_was_shipped(folder: Path) -> None:
    for suffix in (".plan", ".json"):
        (folder / f"x.engine{suffix}").write_text("shipped")
    edit_manifest(folder, engines={"whole": "x.engine"})
    Bundle.open(folder)
    sign(folder)
    with pytest.raises(EngineError, match="expected names of their own"):
        Bundle.open(folder)
