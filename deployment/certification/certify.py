"""Certify a model: run it beside its reference on photographs, and judge the figures."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from adadm.calibration.quality.acceptance import check_accepted
from adadm.calibration.quality.gates import GateResult, Run, measure_gates
from adadm.calibration.quality.ledger import Ledger, Output, Stage, measure
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.certification.baseline import Baseline
from adadm.deployment.certification.candidate import Candidate
from adadm.deployment.certification.certificate import (
    ImageFile,
    Images,
    Model,
    ModelCertificate,
    Reference,
    Stages,
    relative,
)
from adadm.deployment.certification.criteria import (
    Check,
    Thresholds,
    accept_checks,
    acceptable_checks,
    check,
    check_gate,
    check_limits,
    failures,
)
from adadm.deployment.certification.layers.compare import LayerComparison, compare_layers
from adadm.deployment.certification.observations import Observations
from adadm.deployment.certification.report.crops import Crop
from adadm.deployment.certification.speed import measure_speed
from adadm.export.proof.drawn_pictures import plain_pictures, plain_size
from adadm.runtime.checks.device_info import device_info
from adadm.runtime.files import sha256_of
from adadm.runtime.images.arrays import Batch, ImageArray, batch_from_image, image_from_batch
from adadm.runtime.progress import SILENT, Progress

_GATED_PHOTOGRAPHS = 8
_LOOKED_INTO = 2  # photographs whose layers are compared
_LARGEST_PX = 256  # largest side of inputs for layers and speed


@dataclass(frozen=True)
class Certified:
    """A certificate, with the ledger to print and the crops for the report."""

    certificate: ModelCertificate
    ledger: Ledger
    crops: tuple[Crop, ...]


def certify(
    reference: Baseline,
    model: Candidate,
    images: CalibrationImages,
    *,
    originals: bool,
    given: Mapping[str, float],
    accepted: Collection[str] = (),
    at: Path,
    seconds: float = 3.0,
    progress: Progress = SILENT,
) -> Certified:
    """Run both networks on all photographs, and compare the figures with the limits.

    Args:
        originals: True if `images` were reduced from originals, so that PSNR-Y can be measured.
        given: limits other than the defaults, by name.
        accepted: names of checks, drawn inputs and photographs whose failure is accepted.
        at: future path of the certificate, which names files relative to it.
        seconds: duration of the speed measurement.

    Raises:
        CalibrationError: an output is not finite, or equals its original; or an accepted name is
            unknown.
    """
    check_accepted(accepted, acceptable_checks(images))
    thresholds = Thresholds.of(model.precision, given)
    upscale, rgb_range = reference.metadata.upscale, reference.metadata.rgb_range
    stages = [*reference.stages, *model.stages]
    if model.metadata.is_uint8:
        stages = [_in_8_bits(stage, rgb_range) for stage in stages]
    seen = Observations(
        len(reference.stages),
        rgb_range=rgb_range,
        upscale=upscale,
        originals=originals,
        unlimited=reference.unlimited,
    )
    progress.phase("running both networks on photographs")
    ledger = measure(
        stages, images, rgb_range, upscale, on_outputs=seen, originals=originals, progress=progress
    )
    progress.phase("looking for artefacts")
    last_reference = len(reference.stages) - 1
    truth, deployed = (_image_alone(stages[last_reference + index]) for index in (0, 1))
    size = model.tile or plain_size(reference.metadata.smallest_area)
    gated = itertools.islice(images, _GATED_PHOTOGRAPHS)
    gates = measure_gates(truth, deployed, gated, rgb_range=rgb_range, upscale=upscale, size=size)
    feeds = [
        _cropped(batch_from_image(photograph.lr, rgb_range), reference, model)
        for photograph in itertools.islice(images, _LOOKED_INTO)
    ]
    comparison = None
    if model.graph is not None:
        progress.phase("comparing each layer")
        comparison = compare_layers(reference.graph, model.graph, feeds)
    progress.phase("measuring the speed here")
    speed = measure_speed(reference, model, feeds[0], seconds)
    checks = accept_checks(
        (
            *_checks(ledger, len(reference.stages), seen, reference, thresholds),
            *_layers_at_fault(comparison, thresholds),
            *(check_gate(gate, thresholds) for gate in gates),
            *check_limits(seen.photographs),
        ),
        accepted,
    )
    crops = [*seen.crops(), *_crops_of_gates(gates, checks, (truth, deployed), rgb_range, size)]
    failed = failures(checks)
    certificate = ModelCertificate(
        adadm=importlib.metadata.version("adadm-deploy"),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        passed=not failed,
        failures=failed,
        place=comparison.first_divergence if comparison else None,
        model=_described(model, at),
        reference=Reference(
            file=relative(reference.path, at),
            sha256=reference.sha256,
            bytes=reference.path.stat().st_size,
            description=reference.description,
        ),
        images=Images(
            described=str(images),
            originals=originals,
            tile=model.tile,
            digest=images.digest,
            files=tuple(ImageFile(path.name, sha256) for sha256, path in images.files.items()),
            paths=tuple(relative(path, at) for path in images.paths),
        ),
        thresholds=thresholds,
        accepted=tuple(sorted(set(accepted))),
        checks=checks,
        ledger=Stages(ledger.photographs, ledger.stages),
        photographs=tuple(seen.photographs),
        blocks=seen.blocks(reference.blocks),
        layers=comparison.layers if comparison else (),
        speed=speed,
        device=device_info(),
        versions=_versions(),
    )
    return Certified(certificate, ledger, tuple(crops))


def _checks(
    ledger: Ledger, model: int, seen: Observations, reference: Baseline, thresholds: Thresholds
) -> list[Check]:
    truth, candidates = ledger.stages[0], ledger.stages[model:]
    checks = []
    if not math.isnan(truth.psnr_y_db):
        worst = min(candidates, key=lambda stage: stage.psnr_y_db)
        lost_db = truth.psnr_y_db - worst.psnr_y_db
        checks.append(check("lost_db", lost_db, f"mean, {worst.name}", thresholds))
    least = min(seen.photographs, key=lambda photograph: photograph.parity_db)
    checks.append(check("parity_db", least.parity_db, least.name, thresholds))
    with_factors = [stage for stage in candidates if stage.factor_error is not None]
    for stage in with_factors[:1]:
        assert stage.factor_error is not None and stage.factor_block is not None
        where = reference.blocks[stage.factor_block]
        checks.append(check("factor_percent", 100 * stage.factor_error, where, thresholds))
    return checks


def _layers_at_fault(comparison: LayerComparison | None, thresholds: Thresholds) -> list[Check]:
    """The check of layers; empty without comparable layers, as for an engine."""
    if comparison is None:
        return []
    divergence = comparison.first_divergence
    where = divergence.where if divergence else f"{len(comparison.layers)} layers"
    if not comparison.is_mapped:
        where += ", compared without channel maps, which its metadata lacks: make it again"
    return [check("layers_at_fault", float(divergence is not None), where, thresholds)]


def _crops_of_gates(
    gates: list[GateResult],
    checks: tuple[Check, ...],
    runs: tuple[Run, Run],
    rgb_range: float,
    size: tuple[int, int],
) -> list[Crop]:
    """Crops of the drawn inputs on which a gate fails, each once."""
    failed = {row.name for row in checks if not row.passed}
    drawn = plain_pictures(*size)
    crops: dict[str, Crop] = {}
    for result in gates:
        if result.gate.name in failed and result.where in drawn:
            lr = batch_from_image(drawn[result.where], rgb_range)
            shown: list[ImageArray] = [image_from_batch(run(lr), rgb_range) for run in runs]
            reason = f"{result.gate.name}: {result.figure:.2g} {result.gate.unit}"
            crops[result.where] = Crop(result.where, 0, 0, reason, None, shown[0], shown[1])
    return list(crops.values())


def _described(model: Candidate, at: Path) -> Model:
    metadata = model.metadata
    return Model(
        file=relative(model.path, at),
        sha256=model.sha256,
        bytes=model.path.stat().st_size,
        precision=model.precision,
        backend=model.backend,
        description=model.description,
        architecture=metadata.architecture,
        upscale=metadata.upscale,
        rgb_range=metadata.rgb_range,
        io=metadata.io or "float32",
        target=metadata.target,
        checkpoint_sha256=metadata.checkpoint_sha256,
        companions={relative(path, at): sha256_of(path) for path in model.companions},
    )


def _versions() -> dict[str, str]:
    """Versions of the software that computed the figures, besides those of `device_info`."""
    return {
        name: importlib.metadata.version(name)
        for name in ("torch", "onnx", "onnx-ir", "openvino")
        if importlib.util.find_spec(name.replace("-", "_"))
    }


def _image_alone(stage: Stage) -> Run:
    return lambda lr: stage.run(lr)[0]


def _in_8_bits(stage: Stage, rgb_range: float) -> Stage:
    """Round the output of a stage to 8 bits, as a model for uint8 images does."""

    def run(lr: Batch) -> Output:
        sr, factors = stage.run(lr)
        return batch_from_image(image_from_batch(sr, rgb_range), rgb_range), factors

    return Stage(stage.name, run)


def _cropped(lr: Batch, reference: Baseline, model: Candidate) -> Batch:
    """Cut the middle of a large batch, unless the model accepts only its full size."""
    if model.tile:
        return lr
    least = math.isqrt(reference.metadata.smallest_area - 1) + 1
    most = max(_LARGEST_PX, least)
    height, width = (min(side, most) for side in lr.shape[2:])
    top, left = (lr.shape[2] - height) // 2, (lr.shape[3] - width) // 2
    return np.ascontiguousarray(lr[..., top : top + height, left : left + width])
