"""`--sign` and `--verify-key`, over the folder and the files that a signature vouches for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from _support.bundles import bundled, edit_manifest, sign, write_bundle
from _support.certificates import certificate_of, device_certificate, model_certificate
from _support.keys import write_keys
from adadm.deployment import bundle, validate
from adadm.deployment.certification.certificate import sealed
from adadm.deployment.signatures import signer
from adadm.runtime import json_format
from adadm.runtime.cli import run
from adadm.runtime.models.bundled import bundled_path

TARGET = ("--target", "jetson-orin-jp62", "--opt", "1x40x48", "--no-wheels")


def check(path: Path, keys: Path) -> int:
    words = [str(path), "--verify-key", str(keys / "public.pem")]
    return run("adadm validate", validate.main, words)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_signed_bundle_holds_until_a_file_is_changed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    words = [str(bundled_path("x2")), "-o", str(folder), *TARGET, "--sign", str(keys / "key.pem")]
    assert run("adadm bundle", bundle.main, words) == 0
    (folder / "result.json").write_text("{}")  # of the device
    assert check(folder, keys) == 0
    assert "bundle holds: signed with the key of" in capsys.readouterr().out
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "result.json"]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        more = (
            [] if path.suffix == ".sig" else [content + b"\n"]
        )  # JSON, of which the meaning counts
        for changed in (content[:-1], b"", *more):
            path.write_bytes(changed)
            assert check(folder, keys) == 1, path
        path.write_bytes(content)
    (folder / "json.py").write_text("")
    assert check(folder, keys) == 1
    assert "json.py is not part of the bundle" in capsys.readouterr().err
    (folder / "json.py").unlink()
    assert check(folder, keys) == 0


def test_a_manifest_that_is_made_to_agree_is_not_signed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle", {"whole": bundled()})
    assert check(folder, keys) == 1 and "is not signed" in capsys.readouterr().err
    signer(keys / "key.pem")(folder / "MANIFEST.json")
    assert check(folder, keys) == 0
    edit_manifest(folder, precision="fp16")
    (folder / "model.onnx").write_bytes(b"another")
    sign(folder)
    assert check(folder, keys) == 1 and "is not what was signed" in capsys.readouterr().err


def test_a_signed_certificate_and_the_files_that_it_names(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    shutil.copy(bundled_path("x2"), tmp_path / "x2.onnx")
    content = device_certificate() | {"passed": True, "failures": []}
    json_format.write(path, sealed(certificate_of(content)))
    signer(keys / "key.pem")(path)
    assert check(path, keys) == 0
    path.write_text(path.read_text().replace("true", "false"))
    assert check(path, keys) == 1 and "is not what was signed" in capsys.readouterr().err
    content = model_certificate()
    content["model"] |= {"file": "x2.onnx", "companions": {"x2.json": "0" * 64}}
    json_format.write(path, sealed(certificate_of(content)))
    signer(keys / "key.pem")(path)
    assert check(path, keys) == 1
    said = capsys.readouterr()
    assert "x2.onnx was changed: expected sha256" in said.err
    assert content["failures"][0] in said.err
    assert "x2.json is not here, and was not compared" in said.out


@pytest.mark.parametrize(
    "words", [["--verify-key", "K"], ["c", "--verify-key", "K", "--certificate", "c"]]
)
def test_usage(keys: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        validate.main([word.replace("K", str(keys / "public.pem")) for word in words])
    assert "requires a bundle or a certificate in place of the model" in capsys.readouterr().err
