from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from _support.slow import slow_unless
from _support.toy_networks import enlarging_edsr, write_checkpoint, write_crops
from adadm.calibration import pipeline
from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.pipeline import Quantized, lower_network
from adadm.calibration.quality.acceptance import accept
from adadm.calibration.quality.gates import SHIFT, GateResult
from adadm.calibration.quality.ledger import Ledger, Stage, StageResult
from adadm.calibration.quality.photographs import CalibrationImages, Photograph
from adadm.calibration.source_network import SourceNetwork, load_source_network
from adadm.calibration.stages import lowering_stages, run_of_model
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import batch_from_image, image_from_batch
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.progress import Progress
from adadm.runtime.records import digest_of
from adadm.runtime.targets import TARGETS

UNTRAINED = ("worse-than-bicubic",)
CPU = LoweringOptions("int8", TARGETS["cpu"], 0.02, accept=UNTRAINED)
HALF = LoweringOptions("fp16", TARGETS["tensorrt10"], 0.005, accept=UNTRAINED)


@dataclass(frozen=True)
class Lab:
    """A network and two photographs; what was observed and measured of them is kept."""

    source: SourceNetwork
    images: CalibrationImages
    cache: Path

    def lowering(self, request: LoweringOptions) -> Lowering:
        return Lowering.of(self.source, self.images, replace(request, cache=self.cache))

    def lower(self, request: LoweringOptions, **options: Any) -> Quantized:
        request = replace(request, cache=self.cache)
        return lower_network(self.source, self.images, request, **options)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder: Path = tmp_path_factory.mktemp("lab")
    checkpoint = write_checkpoint(folder / "edsr.safetensors", enlarging_edsr())
    (folder / "images").mkdir()
    write_crops(folder / "images", count=2)
    images = CalibrationImages.of([folder / "images"], 2)
    source = load_source_network(checkpoint.with_suffix(".onnx"))
    return Lab(source, images, folder / "cache")


def mean_psnr_y_db(model: onnx.ModelProto, images: CalibrationImages) -> float:
    run = run_of_model(model)
    scores = [
        psnr_y(image_from_batch(run(batch_from_image(photo.lr, 255)), 255), photo.hr, shave=2)
        for photo in images
    ]
    return math.fsum(scores) / len(scores)


def ledger_with(**psnr_y_db: float) -> Ledger:
    stages = tuple(
        StageResult(name.replace("_", " "), db, None, None, 0.0, None, None)
        for name, db in psnr_y_db.items()
    )
    return Ledger(2, stages)


class Measured:
    """In place of the ledger's measure: loses what it is told to, and notes what was INT8."""

    def __init__(self, *lost_db: float) -> None:
        self.lost_db = list(lost_db)
        self.int8: list[frozenset[str]] = []

    def note(self, lowering: Lowering, int8: Sequence[str]) -> list[Stage]:
        self.int8.append(frozenset(int8))
        return []

    def __call__(self, *_: Any, **__: Any) -> Ledger:
        return ledger_with(
            ONNX_Runtime=30.0, **{"INT8" if self.int8[-1] else "FP16": 30.0 - self.lost_db.pop(0)}
        )

    def into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipeline, "lowering_stages", self.note)
        monkeypatch.setattr(pipeline, "measure", self)


def test_stages_and_steps_are_told_in_order(lab: Lab) -> None:
    progress = Mock(spec=Progress)
    quantized = lab.lower(CPU, progress=progress)
    steps: list[tuple[str, list[tuple[int, int]]]] = []
    for name, given, _ in progress.method_calls:
        if name == "phase":
            steps.append((*given, []))
        else:
            steps[-1][1].append(given[:2])
    assert [phase for phase, _ in steps] == [
        "folding and collapsing",
        "observing the ranges of all tensors",
        "searching which convolutions can be INT8",
        "measuring each convolution alone in INT8",
        "searching which convolutions can be INT8",
        "measuring what each stage costs",
        "looking for artefacts",
    ]
    for _, told in steps:
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert all(done <= total for done, total in told)
    assert steps[-2][1] == [(1, 2), (2, 2)]
    assert quantized.models.keys() == {"whole"}
    assert quantized.assignment is not None and quantized.assignment.int8
    quantized.check()


def test_what_is_remembered_is_not_measured_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lab.lower(CPU)
    monkeypatch.setattr(pipeline, "LossMeter", None)
    again = lab.lower(CPU)
    assert again.as_json() == first.as_json()
    assert again.models["whole"].SerializeToString() == first.models["whole"].SerializeToString()


@pytest.mark.parametrize(
    "request_",
    slow_unless(lambda request: request is CPU, [CPU, replace(CPU, target=TARGETS["tensorrt10"])]),
)
def test_what_is_lost_is_what_the_lowered_model_loses(lab: Lab, request_: LoweringOptions) -> None:
    """Measured again, on the model that stands for what is written."""
    quantized = lab.lower(request_)
    assert quantized.assignment is not None
    lowered = quantized.lowering.lowered("whole", quantized.assignment.int8)
    single, found = (
        mean_psnr_y_db(model, lab.images)
        for model in (quantized.lowering.reference, lowered.evaluated)
    )
    assert single - found <= request_.budget_db
    assert quantized.lost_db >= single - found - 1e-9
    assert quantized.ledger.stages[-1].psnr_y_db == pytest.approx(found, abs=1e-6)


def test_the_worst_of_what_is_written_is_lost(lab: Lab) -> None:
    """Stages after the lowering count; those before are float32."""
    lowering = lab.lowering(CPU)

    def lost_db(**psnr_y_db: float) -> float:
        return Quantized({}, lowering, None, (), ledger_with(**psnr_y_db), lab.images).lost_db

    assert lost_db(PyTorch=31, ONNX_Runtime=30, INT8=29.5) == 0.5
    assert lost_db(PyTorch=31, ONNX_Runtime=30, FP16=29, INT8=29.5) == 0.5
    assert lost_db(PyTorch=31, ONNX_Runtime=30, FP16=29.75) == 0.25
    assert lost_db(ONNX_Runtime=30, FP16=29.9, INT8=29.5, tile_models=29.25) == 0.75
    assert lost_db(ONNX_Runtime=30, FP16=29.9, tile_models=30.5) == pytest.approx(0.1)
    assert lost_db(ONNX_Runtime=30, INT8=30.25) == -0.25


def test_the_loss_is_that_of_photographs_held_back(lab: Lab, tmp_path: Path) -> None:
    """And the report names both."""
    write_crops(tmp_path, height=80, count=1)
    held_back = CalibrationImages.of([tmp_path], 2)
    assert held_back.digest != lab.images.digest
    found = lab.lower(CPU, proof=held_back)
    assert (found.ledger.photographs, found.lowering.images) == (1, lab.images)
    report = found.as_json()
    digests = [report[part]["images_sha256"] for part in ("calibration", "proof")]
    assert digests == [lab.images.digest, held_back.digest]


def test_more_photographs_that_lose_more_tighten_the_search(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search sees eight of them; where all lose over the budget, less becomes INT8."""
    measured = Measured(0.05, 0.01)
    measured.into(monkeypatch)
    quantized = lab.lower(CPU)
    first, second = measured.int8
    assert second < first and len(second) > 0
    assert quantized.assignment is not None and frozenset(quantized.assignment.int8) == second
    assert quantized.lost_db == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("request_", "lost_db", "message"),
    [
        (
            CPU,
            (0.021, 0.0211, 0.0212, 0.0),
            r"INT8 loses 0\.0212 dB PSNR-Y over all 2 .*; budget 0\.02 dB\. Raise",
        ),
        (CPU, (1e9,), r"INT8 loses 1000000000\.0000 dB PSNR-Y over all"),  # tightened, nothing fits
        (HALF, (0.01,), r"float16 loses 0\.0100 dB PSNR-Y; budget 0\.005 dB"),
    ],
)
def test_what_misses_its_budget_is_refused(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    request_: LoweringOptions,
    lost_db: tuple[float, ...],
    message: str,
) -> None:
    measured = Measured(*lost_db)
    measured.into(monkeypatch)
    with pytest.raises(CalibrationError, match=message):
        lab.lower(request_)
    assert len(measured.int8) == min(3, len(lost_db))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (replace(HALF, target=TARGETS["cpu"]), "float16 gains nothing on cpu"),
        (replace(CPU, static=(2, 32, 32)), "cannot lower a model with a batch size of 2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, request_: LoweringOptions, message: str
) -> None:
    monkeypatch.setattr("adadm.calibration.lowering.collect", None)
    with pytest.raises(CalibrationError, match=message):
        lab.lower(request_)


def test_the_report_is_json_and_the_same_each_time(lab: Lab) -> None:
    """And of what `check` refuses a caller can look at it, and at the models."""
    quantized = lab.lower(HALF)
    text = json.dumps(quantized.as_json(), allow_nan=False)
    assert json.dumps(lab.lower(HALF).as_json()) == text
    assert json.loads(text)["int8"] is None and len(json.loads(text)["gates"]) == 7
    assert json.loads(text)["sha256"] == digest_of(json.loads(text))
    failed = replace(quantized.ledger, gates=(GateResult(SHIFT, 0.6, "red of a.png"),))
    with pytest.raises(CalibrationError, match=r"mean shift is 0\.60 levels \(red of a\.png\)"):
        replace(quantized, ledger=failed).check()


def test_a_network_that_is_worse_than_bicubic_is_refused(lab: Lab) -> None:
    """Unless that is accepted, which the report says."""
    quantized = lab.lower(HALF)
    quantized.check()
    report = quantized.as_json()
    assert report["accepted"] == list(UNTRAINED)
    assert [gate["gate"] for gate in report["gates"] if gate["accepted"]] == list(UNTRAINED)
    gates = accept(quantized.ledger.gates, ())
    with pytest.raises(
        CalibrationError, match=r"^float32 itself .*:\n  worse-than-bicubic is \d\.\d\d dB \(mean"
    ):
        replace(quantized, ledger=replace(quantized.ledger, gates=gates)).check()


def test_an_input_model_is_left_as_it_is(lab: Lab) -> None:
    before = ir.to_proto(lab.source.model).SerializeToString(deterministic=True)
    lab.lower(CPU)
    assert ir.to_proto(lab.source.model).SerializeToString(deterministic=True) == before


def test_stages_are_one_function_in_many_forms(lab: Lab) -> None:
    """Exact ones agree to the last digits, with all their factors."""
    lowering = lab.lowering(replace(CPU, target=TARGETS["tensorrt10"], stats="external"))
    stages = lowering_stages(lowering, ["body.0.conv1"])
    assert [stage.name for stage in stages] == [
        "as exported",
        "folded",
        "collapsed",
        "ONNX Runtime",
        "FP16",
        "INT8",
        "tile models",
    ]
    photograph: Photograph = next(iter(lab.images))
    lr = np.ascontiguousarray(photograph.lr.transpose(2, 0, 1)[None], np.float32)
    found = {stage.name: stage.run(lr) for stage in stages}
    expected, _ = found["as exported"]
    factors = [float(value.item()) for value in found["folded"][1]]
    assert len(factors) == 2 and all(math.isfinite(factor) for factor in factors)
    for name, (sr, known) in found.items():
        error = np.abs(sr - expected).max()
        assert error < (2e-3 if name in ("folded", "collapsed", "ONNX Runtime") else 3), name
        if known:
            np.testing.assert_allclose([value.item() for value in known], factors, rtol=3e-3)
    assert found["FP16"][0].tobytes() != expected.tobytes()
    assert found["INT8"][0].tobytes() != found["FP16"][0].tobytes()


def test_models_are_noted(lab: Lab) -> None:
    quantized = lab.lower(replace(CPU, stats="external"))
    assert quantized.models.keys() == {"whole", "tile", "moments"}
    notes = set()
    for model in quantized.models.values():
        onnx.checker.check_model(model, full_check=True)
        (note,) = (e.value for e in model.metadata_props if e.key == "adadm.quantization")
        notes.add(note)
    assert len(notes) == 1
    assert json.loads(notes.pop())["images_sha256"] == lab.images.digest


def test_drawn_inputs_are_as_large_as_the_network_needs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adadm.export.proof.drawn_pictures._PLAIN_PX", (16, 20))
    assert lab.lowering(CPU).size == (16, 20)
    needy = replace(lab.source, metadata=replace(lab.source.metadata, smallest_area=1500))
    assert replace(lab, source=needy).lowering(CPU).size == (48, 60)


def test_the_cache_of_losses_is_that_of_what_is_evaluated(lab: Lab) -> None:
    """The two forms for TensorRT compute the same; float32 does not."""
    keys = [
        lab.lowering(replace(CPU, target=TARGETS[name])).key
        for name in ("tensorrt10", "jetson-orin-jp51", "cpu")
    ]
    assert keys[0] == keys[1] != keys[2]
