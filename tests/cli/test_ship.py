"""`adadm ship`: the whole line, resumed by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from _support.keys import write_keys
from _support.scripts import ROOT
from _support.toy_networks import enlarging_edsr
from adadm.deployment import ship, validate
from adadm.deployment.certification import certify
from adadm.deployment.certification.baseline import Baseline
from adadm.deployment.certification.candidate import Candidate
from adadm.deployment.certification.speed import measure_speed
from adadm.export import save_checkpoint
from adadm.export.limits import set_limits
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.cli import run
from adadm.runtime.files import sha256_of
from adadm.runtime.images.arrays import Batch
from adadm.runtime.records import digest_of, write_record

CHECKPOINT = ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors"


@pytest.fixture(autouse=True)
def speed_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for seconds."""

    def measure_once(reference: Baseline, model: Candidate, lr: Batch, _: float) -> object:
        return measure_speed(reference, model, lr, seconds=0)

    monkeypatch.setattr(certify, "measure_speed", measure_once)


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, photo in photographs().items():
        Image.fromarray(photo[80:176, 80:176]).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def adadm(originals: Path, *options: str, checkpoint: Path | None = None) -> int:
    """By default of a small network that is not trained, which is accepted."""
    folder = originals.parent
    if checkpoint is None:
        checkpoint = folder / "small.safetensors"
        network = enlarging_edsr()
        set_limits(network, 3, {})  # no photograph reaches them
        save_checkpoint(checkpoint, network)
        options = (*options, "--accept", "worse-than-bicubic")
    words = [str(checkpoint), "--images", str(originals), "-o", str(folder / "out")]
    return run("adadm ship", ship.main, [*words, "--cache", str(folder / "cache"), *options])


def summary(originals: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((originals.parent / "out" / "summary.json").read_text())
    return rows


def test_the_line_for_a_cpu_goes_on_where_it_was(
    originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adadm(originals, "--target", "cpu") == 0
    said, told = capsys.readouterr()
    assert "steps: 4 done, 0 up to date" in said and "certified" in said
    assert told.index("export: begun\n") < told.index("export: done in ")
    assert told.count(": begun\n") == told.count(": done in ") == 4
    rows = summary(originals)
    assert [(row["target"], row["precision"], row["passed"]) for row in rows] == [
        ("any", "float32", True),
        ("cpu", "int8", True),
    ]
    out = originals.parent / "out"
    model = out / rows[1]["model"]
    assert rows[1]["megabytes"] == pytest.approx(model.stat().st_size / 1e6, rel=1e-4)
    certificate = json.loads(model.with_suffix(".certificate.json").read_text())
    assert certificate["model"]["sha256"] == sha256_of(model)
    certified_on = {file["name"] for file in certificate["images"]["files"]}
    calibrated_on = json.loads(model.with_suffix(".json").read_text())["calibration"]["images"]
    assert len(certified_on) == 1 and calibrated_on.startswith("3 of 4")  # none is in both
    checked = ["--certificate", str(model.with_suffix(".certificate.json"))]
    assert run("adadm validate", validate.main, checked) == 0
    capsys.readouterr()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")}
    assert adadm(originals, "--target", "cpu") == 0
    said, told = capsys.readouterr()
    assert "steps: 0 done, 4 up to date" in said and told.count(": up to date\n") == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")} == before

    # A record that says that it is done, and a certificate that says that it passed.
    path = model.with_suffix(".certificate.json")
    forged = json.loads(path.read_text())
    forged["checks"].pop(0)
    forged["sha256"] = digest_of(forged)
    path.write_text(json.dumps(forged))
    record = json.loads((out / "steps.json").read_text())["content"]
    step = record["steps"][f"certificate {model.name}"]
    step["outputs"][path.relative_to(out).as_posix()] = sha256_of(path)
    write_record(out / "steps.json", record)
    assert adadm(originals, "--target", "cpu") == 0
    assert "steps: 1 done, 3 up to date" in capsys.readouterr().out
    assert json.loads(path.read_text())["checks"] == certificate["checks"]

    model.write_bytes(model.read_bytes()[:-1])
    assert adadm(originals, "--target", "cpu") == 0  # the model; its certificate holds again
    assert "steps: 1 done, 3 up to date" in capsys.readouterr().out
    assert sha256_of(model) == certificate["model"]["sha256"]

    write_keys(keys := originals.parent / "keys")
    for done, unchanged in ((2, 4), (0, 6)):
        assert adadm(originals, "--target", "cpu", "--sign", str(keys / "key.pem")) == 0
        assert f"steps: {done} done, {unchanged} up to date" in capsys.readouterr().out
        words = [str(path), "--verify-key", str(keys / "public.pem")]
        assert run("adadm validate", validate.main, words) == 0


@pytest.mark.slow
def test_a_budget_that_cannot_be_kept_is_a_row_that_failed(
    originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adadm(originals, "--target", "cpu", "--budget-db", "0") == 1
    assert "1 of 2 are not certified" in (said := capsys.readouterr().err)
    assert "cpu int8: " in said
    float32, int8 = summary(originals)
    assert float32["passed"] and not int8["passed"]
    assert int8["model"] is None and int8["problem"]


@pytest.mark.slow
def test_the_line_for_devices(originals: Path) -> None:
    targets = ("jetson-orin-jp62", "tensorrt10", "jetson-orin-jp51", "tensorrt-rtx")
    write_keys(keys := originals.parent / "keys")
    signed = ("--sign", str(keys / "key.pem"))
    options = ("--no-wheels", "--stats", "external", *signed, "--target", *targets)
    assert adadm(originals, *options, checkpoint=CHECKPOINT) == 0
    rows = {(row["target"], row["precision"]): row for row in summary(originals)}
    assert len(rows) == 1 + 2 * len(targets)
    assert all(row["passed"] for row in rows.values())
    same = [rows[target, "int8"]["model"] for target in ("jetson-orin-jp62", "tensorrt10")]
    assert same[0] == same[1] != rows["jetson-orin-jp51", "int8"]["model"]
    out = originals.parent / "out"
    for target in targets[:3]:
        (bundle,) = rows[target, "fp16"]["made"]
        words = [str(out / bundle), "--verify-key", str(keys / "public.pem")]
        assert run("adadm validate", validate.main, words) == 0
    assert [Path(name).suffix for name in rows["tensorrt-rtx", "int8"]["made"]] == [".engine"]


def test_photographs_that_are_none(originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in originals.iterdir():
        path.write_bytes(b"no image")
    assert adadm(originals, "--target", "cpu") == 1
    assert "photographs are unusable" in capsys.readouterr().err
    assert not (originals.parent / "out").exists()
