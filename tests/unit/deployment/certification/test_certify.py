"""The parts of a certificate: limits, both sides, and what is noted of photographs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from _support.certificates import certificate_of, model_certificate
from _support.exports import exported
from _support.lowered import lowered_x2
from _support.scripts import ROOT
from adadm.calibration.quality.gates import GATES
from adadm.calibration.quality.photographs import Photograph
from adadm.deployment.certification import certify
from adadm.deployment.certification.baseline import Baseline, load_baseline
from adadm.deployment.certification.candidate import load_candidate
from adadm.deployment.certification.certificate import ModelCertificate
from adadm.deployment.certification.criteria import (
    CRITERIA,
    KEYS,
    Thresholds,
    check,
    read_thresholds,
)
from adadm.deployment.certification.layers.compare import compare_layers
from adadm.deployment.certification.observations import BlockResult, Observations
from adadm.deployment.certification.recheck import _differences
from adadm.export import Options
from adadm.export.proof.pytorch import run_with_factors
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.errors import CalibrationError, SessionError
from adadm.runtime.host import Cpu
from adadm.runtime.images.arrays import Batch, batch_from_image, image_from_batch, reduce
from adadm.runtime.models.bundled import bundled_path

CHECKPOINT = ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors"


def lr_of(name: str = "coffee") -> Batch:
    return batch_from_image(reduce(photographs((name,))[name][:80, :96], 2), 255.0)


def test_every_check_has_a_limit_of_its_own_name() -> None:
    limits = Thresholds.of("int8", {"border_db": 1.5}).limits
    assert limits.keys() == set(KEYS.values()) == {*CRITERIA, *(KEYS[g.name] for g in GATES)}
    assert limits["border_db"] == 1.5
    assert limits["parity_db"] == pytest.approx(20 * math.log10(255), abs=0.01)
    fp16 = Thresholds.of("fp16", {}).limits["parity_db"]
    assert fp16 == pytest.approx(10 * math.log10(12 * 255**2), abs=0.01)


@pytest.mark.parametrize(("figure", "passes"), [(48.2, True), (48.1, False), (math.nan, False)])
def test_the_least_is_allowed_and_nothing_below(figure: float, passes: bool) -> None:
    found = check("parity_db", figure, "a.png", Thresholds.of("int8", {}))
    assert found.passed == passes
    assert check("lost_db", -0.3, "mean", Thresholds.of("int8", {})).passed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "expected an object, got"),
        ('{"parity_dB": 3}', "unknown name 'parity_dB'; did you mean 'parity_db'"),
        ('{"x": 3}', r"unknown name 'x'\. Known: lost_db, parity_db"),
        ('{"lost_db": true}', "lost_db: expected a number, got True"),
    ],
)
def test_a_file_of_thresholds_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "limits.json").write_text(text)
    with pytest.raises(CalibrationError, match=reason):
        read_thresholds(tmp_path / "limits.json")


def photograph(name: str) -> Photograph:
    hr = photographs((name,))[name][:192, :256]
    return Photograph(name, name, hr, reduce(hr, 2))


def test_the_worst_window_is_found() -> None:
    found = photograph("coffee")
    expected = batch_from_image(found.hr, 255.0)
    sr = expected.copy()
    sr[..., 100:110, 30:50] += 3  # the most error, near the left
    sr[0, 1, 20, 200] -= 40  # the largest, elsewhere
    seen = Observations(1, rgb_range=255.0, upscale=2, originals=True)
    seen(found, [(expected, []), (sr, [])])
    most, largest = seen.crops()
    for crop, top, left in ((most, 100, 30), (largest, 20, 200)):
        assert 0 <= top - crop.top < 96 and 0 <= left - crop.left < 96
        assert crop.found.shape == crop.reference.shape == (96, 96, 3)
        cut = np.s_[crop.top : crop.top + 96, crop.left : crop.left + 96]
        assert np.array_equal(crop.found, image_from_batch(sr, 255.0)[cut])
        assert crop.original is not None and np.array_equal(crop.original, found.hr[cut])
    windows = {
        (top, left): float(((sr - expected)[..., top : top + 96, left : left + 96] ** 2).mean())
        for top in range(0, 97, 16)
        for left in range(0, 161, 16)
    }
    assert windows[most.top, most.left] == pytest.approx(max(windows.values()), rel=0.2)
    assert "levels RMS" in most.reason and largest.reason.startswith("largest error: ")
    (row,) = seen.photographs
    assert row.largest_error == pytest.approx(40, abs=1e-3)
    mean_square = float(((sr - expected).astype(np.float64) ** 2).mean())
    assert row.parity_db == pytest.approx(10 * math.log10(255**2 / mean_square))
    assert row.psnr_y_db is not None and row.psnr_y_db["reference"] == math.inf


def test_factors_are_compared_block_by_block() -> None:
    def factors(*values: float) -> list[Batch]:
        return [np.full((1, 1, 1, 1), value, np.float32) for value in values]

    seen = Observations(1, rgb_range=255.0, upscale=2, originals=False)
    sr = np.zeros((1, 3, 64, 64), np.float32)
    seen(photograph("coffee"), [(sr, factors(10, 20)), (sr, factors(10, 21))])
    seen(photograph("rocket"), [(sr, factors(12, 40)), (sr, factors(9, 40))])
    first, second = seen.blocks(["body.0", "body.1"])
    assert first.error == pytest.approx(0.25)
    assert first == BlockResult(0, "body.0", (10, 11, 12), (9, 9.5, 10), first.error)
    assert second.error == pytest.approx(0.05)
    assert seen.crops() == []  # nothing differs


@pytest.fixture
def truth(tmp_path: Path) -> Baseline:
    """A small random network, as it is exported."""
    onnx.save(exported("edsr", 2, Options())[1], tmp_path / "reference.onnx")
    return load_baseline(tmp_path / "reference.onnx")


def test_a_checkpoint_and_its_export_are_the_same_reference() -> None:
    exported_one = load_baseline(bundled_path("x2"))
    sides = [load_baseline(CHECKPOINT), exported_one]
    assert sides[0].blocks == exported_one.blocks == tuple(f"body.{i}" for i in range(8))
    assert sides[0].stages[0].name == "PyTorch"
    outputs = [side.stages[0].run(lr_of()) for side in sides]
    assert np.abs(outputs[0][0] - outputs[1][0]).max() < 1e-2
    assert np.allclose(outputs[0][1], outputs[1][1], rtol=1e-4)


def test_factors_of_a_scaled_trunk_are_in_the_units_of_the_network(
    truth: Baseline, tmp_path: Path
) -> None:
    network, proto, _ = exported("edsr", 2, Options())
    noted = {"precision": "fp16", "target": "cpu", "factor_scales": [4.0, 0.5]}
    proto.metadata_props.add(key="adadm.quantization", value=json.dumps(noted))
    onnx.save(proto, tmp_path / "scaled.onnx")
    model = load_candidate(tmp_path / "scaled.onnx", truth, "cpu")
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 24, 28)).astype(np.float32)
    _, expected = run_with_factors(network, lr)
    _, found = model.stages[0].run(lr)
    assert np.allclose(
        [f * s for f, s in zip(found[:2], (4.0, 0.5), strict=True)], expected[:2], rtol=1e-3
    )


def test_a_model_for_images_and_one_of_a_fixed_size(truth: Baseline, tmp_path: Path) -> None:
    for io, static in (("uint8", None), ("float32", (1, 20, 24))):
        _, proto, _ = exported("edsr", 2, Options(io=io, static=static))  # type: ignore[arg-type]
        onnx.save(proto, tmp_path / f"{io}.onnx")
    image, fixed = (
        load_candidate(tmp_path / f"{io}.onnx", truth, "cpu") for io in ("uint8", "float32")
    )
    assert (image.tile, fixed.tile) == (None, (20, 24))
    lr = np.rint(np.random.default_rng(1).uniform(0, 255, (1, 3, 20, 24))).astype(np.float32)
    expected, shown = truth.stages[0].run(lr)[0], image.stages[0].run(lr)[0]
    assert np.array_equal(image_from_batch(shown, 255.0), image_from_batch(expected, 255.0))
    assert np.abs(fixed.stages[0].run(lr)[0] - expected).max() < 1e-2
    with image.session() as session:
        assert session.run(image.feed(lr))["sr"].dtype == np.uint8


def test_a_model_of_another_tool_is_held_to_the_reference(truth: Baseline, tmp_path: Path) -> None:
    """One image in, one out, of whatever names, without metadata."""
    _, proto, _ = exported("edsr", 2, Options(modulator="inline"))
    del proto.metadata_props[:]
    names = {"lr": "input", "sr": "output"}
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names[value.name]
    onnx.save(proto, tmp_path / "foreign.onnx")
    model = load_candidate(tmp_path / "foreign.onnx", truth, "cpu")
    lr = np.random.default_rng(2).uniform(0, 255, (1, 3, 20, 24)).astype(np.float32)
    assert np.abs(model.stages[0].run(lr)[0] - truth.stages[0].run(lr)[0]).max() < 1e-2
    assert model.precision == "float32" and model.metadata.target is None
    assert truth.graph and model.graph
    comparison = compare_layers(truth.graph, model.graph, [lr])
    [fault] = certify._layers_at_fault(comparison, Thresholds.of("float32", {}))
    assert fault.passed and "compared without channel maps" in fault.where


def test_models_for_tiles_are_a_stage() -> None:
    truth = load_baseline(CHECKPOINT)
    model = load_candidate(lowered_x2("tensorrt10", "fp16"), truth, "cpu")
    assert [stage.name for stage in model.stages] == ["FP16", "tile models"]
    assert [path.name.split(".")[-2] for path in model.companions] == ["tile", "moments"]
    whole, tiles = (stage.run(lr_of())[0] for stage in model.stages)
    assert np.abs(whole - tiles).max() < 0.5


def test_what_cannot_be_a_side_is_refused(tmp_path: Path) -> None:
    engine = tmp_path / "x2.engine"
    engine.write_bytes(b"plan")
    with pytest.raises(CalibrationError, match=r"as reference, got the engine .*x2\.engine"):
        load_baseline(engine)
    proto = onnx.load(bundled_path("x2"))
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    with pytest.raises(CalibrationError, match=r"lacks adadm\.upscale.*give the checkpoint"):
        load_baseline(tmp_path / "bare.onnx")
    with pytest.raises(SessionError, match="no such model"):
        bundled_path(tmp_path / "missing.onnx")


def test_a_row_that_is_missing_is_a_difference_on_any_machine() -> None:
    """However wide the slack is with which figures are compared there."""

    old = certificate_of(model_certificate())
    assert isinstance(old, ModelCertificate)
    elsewhere = replace(old, device=DeviceInfo(cpu=Cpu("another")))
    assert list(_differences(old, elsewhere)) == []
    first, second = old.photographs
    for rows in ((first, replace(second, name="c.png")), (first,)):
        assert list(_differences(old, replace(elsewhere, photographs=rows))) == [
            "the names of the photographs differ from those measured now"
        ]
