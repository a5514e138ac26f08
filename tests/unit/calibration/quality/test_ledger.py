"""Expected figures are computed by hand from planted errors."""

from __future__ import annotations

import io
import json
import math
from unittest.mock import Mock, call

import numpy as np
import pytest

from _support.planted import PHOTOGRAPHS, UPSCALE
from adadm.calibration.quality.gates import GATES, LOST, GateResult
from adadm.calibration.quality.ledger import Ledger, Stage, StageResult, measure, print_ledger
from adadm.calibration.quality.photographs import Photograph
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch, batch_from_image
from adadm.runtime.progress import Progress
from adadm.runtime.tables import Console

WHITE = 1.0
FACTORS = (0.7, 12.5, 3.0)


def stage(name: str, levels: tuple[float, float], factors: tuple[float, ...] = FACTORS) -> Stage:
    """Enlarges by repeating, then adds grey levels, so many to each photograph."""

    def run(lr: Batch) -> tuple[Batch, list[Batch]]:
        sr = lr.repeat(UPSCALE, axis=2).repeat(UPSCALE, axis=3)
        planted = dict(zip((17, 31), levels, strict=True))[lr.shape[2]]
        sr += np.float32(planted / 255)
        return sr, [np.full((1, 1, 1, 1), factor, np.float32) for factor in factors]

    return Stage(name, run)


def psnr_of(levels: float) -> float:
    """PSNR-Y of an image that is off by as many grey levels in every channel."""
    weights = (65.481 + 128.553 + 24.966) / 255
    return 10 * math.log10(255**2 / (levels * weights) ** 2)


def test_figures_of_planted_errors() -> None:
    progress = Mock(spec=Progress)
    ledger = measure(
        [
            stage("PyTorch", (2, 2)),
            stage("same", (2, 2)),
            stage("FP16", (2.3, 2.3), factors=(0.7, 12.4, 3.0)),
            stage("INT8", (1, 4), factors=(0.7, 12.4, 3.3)),
        ],
        PHOTOGRAPHS,
        WHITE,
        UPSCALE,
        progress=progress,
    )
    assert progress.advance.call_args_list == [call(1, 2, "a.png"), call(2, 2, "b.png")]
    assert ledger.photographs == 2
    first, same, half, int8 = ledger.stages
    assert first.psnr_y_db == pytest.approx(psnr_of(2))
    assert (first.lost_db, first.parity_db, first.largest_error) == (None, None, 0)
    assert (first.factor_error, first.factor_block) == (None, None)
    assert (same.lost_db, same.parity_db) == (0, math.inf)

    # 2.3 is shown as 2: nothing is lost, though the float outputs differ
    assert half.lost_db == pytest.approx(0, abs=1e-9)
    assert half.parity_db == pytest.approx(20 * math.log10(255 / 0.3), abs=1e-3)
    assert half.largest_error == pytest.approx(0.3, abs=1e-3)
    assert half.factor_block == 1
    assert half.factor_error == pytest.approx(0.1 / 12.5, rel=1e-4)

    # PSNR is a mean over photographs, parity is one over all pixels
    assert int8.psnr_y_db == pytest.approx((psnr_of(1) + psnr_of(4)) / 2)
    assert int8.lost_db == pytest.approx(psnr_of(2) - (psnr_of(1) + psnr_of(4)) / 2)
    a, b = (photo.hr.size for photo in PHOTOGRAPHS)
    mean_square = (a * (1 - 2) ** 2 + b * (4 - 2) ** 2) / (a + b)
    assert int8.parity_db == pytest.approx(10 * math.log10(255**2 / mean_square), abs=1e-3)
    assert int8.largest_error == pytest.approx(2, abs=1e-3)
    assert int8.factor_block == 2
    assert int8.factor_error == pytest.approx(0.1, rel=1e-4)


def test_factors_that_are_not_known() -> None:
    ledger = measure(
        [stage("PyTorch", (1, 1)), stage("INT8", (1, 1), factors=())], PHOTOGRAPHS, WHITE, UPSCALE
    )
    assert (ledger.stages[1].factor_error, ledger.stages[1].factor_block) == (None, None)


def test_stages_that_do_not_belong_together() -> None:
    first = stage("PyTorch", (1, 1))
    with pytest.raises(CalibrationError, match=r"a\.png, INT8: .* 3 factors, got .* with 2"):
        measure([first, stage("INT8", (1, 1), factors=(1, 2))], PHOTOGRAPHS, WHITE, UPSCALE)
    smaller = Stage("INT8", lambda lr: (lr, []))
    with pytest.raises(CalibrationError, match=r"\(1, 3, 34, 46\).*\(1, 3, 17, 23\)"):
        measure([first, smaller], PHOTOGRAPHS, WHITE, UPSCALE)


@pytest.mark.parametrize(
    "bad",
    [stage("FP16", (math.nan, 1)), stage("FP16", (1, 1), factors=(0.7, math.inf, 3.0))],
    ids=["sr", "factor"],
)
def test_what_is_not_finite_is_named(bad: Stage) -> None:
    with pytest.raises(CalibrationError, match=r"a\.png, FP16: .* not finite"):
        measure([stage("PyTorch", (1, 1)), bad], PHOTOGRAPHS, WHITE, UPSCALE)


def test_one_photograph_at_a_time() -> None:
    events: list[str] = []

    def noting(name: str) -> Stage:
        def run(lr: Batch) -> tuple[Batch, list[Batch]]:
            events.append(f"{name} {lr.shape[2]}")
            return stage(name, (1, 1)).run(lr)

        return Stage(name, run)

    measure([noting("first"), noting("second")], PHOTOGRAPHS, WHITE, UPSCALE)
    assert events == ["first 17", "second 17", "first 31", "second 31"]


def ledger_with_gates() -> Ledger:
    stages = [
        stage("PyTorch", (2, 2)),
        stage("ONNX Runtime", (2, 2)),
        stage("INT8", (3, 3), factors=(0.7, 12.4, 3.0)),
    ]
    gates = (
        GateResult(GATES[0], 1 / 3, "all photographs"),
        GateResult(GATES[3], 1e5, "grey 255", left_out=("skin",)),
        GateResult(LOST._replace(name="skin"), math.inf, "float32", accepted=True),
    )
    measured = measure(stages, PHOTOGRAPHS, WHITE, UPSCALE)
    return Ledger(measured.photographs, measured.stages, gates)


def test_json_has_six_digits_no_infinity_and_is_the_same_again() -> None:
    first, second = (json.dumps(ledger_with_gates().as_json(), allow_nan=False) for _ in range(2))
    assert first == second
    content = json.loads(first)
    assert content["photographs"] == 2
    assert content["stages"][2]["factor_block"] == 1
    assert content["stages"][2]["psnr_y_db"] == float(f"{psnr_of(3):.6g}")
    assert content["gates"][0]["figure"] == 0.333333
    assert content["gates"][0]["passed"] and not content["gates"][1]["passed"]
    infinite = StageResult("same", math.inf, math.nan, math.inf, 0.0, None, None)
    (row,) = Ledger(1, (infinite,)).as_json()["stages"]
    assert (row["psnr_y_db"], row["lost_db"], row["parity_db"]) == (None, None, None)


def test_the_tables_fit_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    print_ledger(ledger_with_gates(), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    parts = ("PyTorch", "ONNX Runtime", "8.0e-03 in block 1", "+3.5", "grey 255", "FAILED")
    assert all(part in text for part in (*parts, "passed", "skin", "accepted"))


def test_batches_are_in_the_networks_range() -> None:
    """A rgb_range of 1 and one of 255 give the same ledger."""

    def run(lr: Batch) -> tuple[Batch, list[Batch]]:
        return stage("PyTorch", (2 * 255, 2 * 255)).run(lr)

    large = measure([Stage("PyTorch", run)], PHOTOGRAPHS, 255.0, UPSCALE)
    small = measure([stage("PyTorch", (2, 2))], PHOTOGRAPHS, WHITE, UPSCALE)
    assert batch_from_image(PHOTOGRAPHS[0].lr, 255.0).max() > 100
    assert large.stages[0].psnr_y_db == pytest.approx(small.stages[0].psnr_y_db)


def test_what_is_reproduced_exactly_is_refused() -> None:
    """Its PSNR is infinite, and no budget could be judged."""
    flat = np.full((24, 28, 3), 128, np.uint8)
    photograph = Photograph("flat.png", "", flat.repeat(2, axis=0).repeat(2, axis=1), flat)
    perfect = Stage("ONNX Runtime", lambda lr: (lr.repeat(2, axis=2).repeat(2, axis=3), []))
    with pytest.raises(
        CalibrationError, match=r"flat\.png: ONNX Runtime reproduces the original exactly"
    ):
        measure([perfect], [photograph], WHITE, UPSCALE)
