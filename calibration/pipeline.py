"""Lower a float32 network to a model whose measured loss is within its budget."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.quality.acceptance import (
    accept,
    acceptable,
    check_accepted,
    check_gates,
)
from adadm.calibration.quality.gates import compare_with_bicubic, measure_gates
from adadm.calibration.quality.ledger import Ledger, measure
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.ranges.tensor_statistics import METHOD
from adadm.calibration.search.budget import Assignment, search
from adadm.calibration.search.evaluations import Evaluations, Loss, LossMeter
from adadm.calibration.search.sensitivity import (
    Sensitivity,
    draw_sensitivities,
    measure_sensitivity,
)
from adadm.calibration.source_network import SourceNetwork
from adadm.calibration.stages import lowering_stages, run_of_model
from adadm.runtime import json_format
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import written_whole
from adadm.runtime.models.bundled import Variant, report_path, variant_path
from adadm.runtime.models.metadata import ModelMetadata, QuantizationNote
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.records import digest_of

_SEARCH_PHOTOGRAPHS = 8
_SEARCHES = 3


def plot_path(output: Path) -> Path:
    """Path of the plot of a model's sensitivities."""
    return output.with_suffix(".sensitivity.svg")


@dataclass(frozen=True)
class Quantized:
    """Lowered models with their measurements.

    Attributes:
        models: `whole`, and with `stats="external"` also `tile` and `moments`.
        assignment: which convolutions are INT8; None for FP16.
        sensitivities: the most sensitive first; empty if none had to be measured.
        ledger: cost of each stage over the photographs of `proof`, and the artefact gates.
        proof: photographs on which the loss was measured.
    """

    models: dict[Variant, onnx.ModelProto]
    lowering: Lowering
    assignment: Assignment | None
    sensitivities: tuple[Sensitivity, ...]
    ledger: Ledger
    proof: CalibrationImages

    @property
    def lost_db(self) -> float:
        """PSNR-Y loss of the last stage against float32 on ONNX Runtime, dB."""
        return _lost_db(self.ledger)

    @property
    def spared(self) -> tuple[str, ...]:
        """Convolutions that are not INT8: by the search, or outside the range of float16."""
        int8 = self.assignment.int8 if self.assignment else ()
        return tuple(name for name in self.lowering.work if name not in int8)

    def check(self) -> None:
        """Refuse a model with artefacts, or of a network that is not worth lowering.

        Raises:
            CalibrationError: a gate fails, float32 fails on an input, or it is worse than bicubic
                interpolation, and that is not accepted.
        """
        check_gates(self.ledger.gates)

    def write(self, output: Path) -> list[Path]:
        """Write the models, the report and the plot beside each other: all files or none."""
        paths = {variant: variant_path(output, variant) for variant in self.models}
        written = [*paths.values(), report_path(output)]
        with ExitStack() as files:
            for variant, path in paths.items():
                onnx.save(self.models[variant], files.enter_context(written_whole(path)))
            report = files.enter_context(written_whole(report_path(output)))
            report.write_text(json_format.text(self.as_json()), encoding="utf-8")
            if self.sensitivities:
                plot = files.enter_context(written_whole(plot_path(output)))
                draw_sensitivities(self.sensitivities, plot, self.spared)
                written.append(plot_path(output))
        return written

    def as_json(self) -> dict[str, Any]:
        """The report, for `json_format.text`; equal for equal runs."""
        lowering, assignment = self.lowering, self.assignment
        request, source = lowering.request, lowering.source
        report = {
            "version": version("adadm-deploy"),
            "source": {"sha256": source.sha256, **source.metadata.to_props()},
            "precision": request.precision,
            "target": request.target.name,
            "budget_db": request.budget_db,
            "accepted": request.accept,
            "lost_db": self.lost_db,
            "calibration": {
                "images": str(lowering.images),
                "images_sha256": lowering.images.digest,
                "method": METHOD,
            },
            "proof": {"images": str(self.proof), "images_sha256": self.proof.digest},
            "int8": assignment
            and {
                "convolutions": assignment.int8,
                "spared": self.spared,
                "share_of_multiply_adds": lowering.share(assignment.int8),
                "evaluations": assignment.evaluations,
            },
            "sensitivities": self.sensitivities,
            "trunk_exponent": lowering.exponent,
            "float16": lowering.ranges,
            **self.ledger.as_json(),
        }
        ready: dict[str, Any] = json_format.rounded(report)
        return {**ready, "sha256": digest_of(ready)}


def lower_network(
    source: SourceNetwork,
    images: CalibrationImages,
    request: LoweringOptions,
    *,
    proof: CalibrationImages | None = None,
    progress: Progress = SILENT,
) -> Quantized:
    """Lower a network, and measure the loss.

    Args:
        images: photographs at the size at which the model will run: they give the ranges, and
            decide the search.
        proof: photographs on which the loss and the gates are measured; by default the same.

    Returns:
        Models whose loss is within the budget; `check` refuses those with artefacts.

    Raises:
        CalibrationError: the budget cannot be met; the output of a photograph is not finite in
            float32; or a name in `request.accept` is unknown.
        ExportError: the graph cannot have the form that the target needs.
    """
    proof = proof or images
    check_accepted(request.accept, (*acceptable(images), *proof.names))
    lowering = Lowering.of(source, images, request, progress=progress)

    def ledger_of(int8: tuple[str, ...]) -> Ledger:
        progress.phase("measuring what each stage costs")
        return measure(
            lowering_stages(lowering, int8),
            proof,
            source.metadata.rgb_range,
            source.metadata.upscale,
            progress=progress,
        )

    assignment: Assignment | None = None
    sensitivities: tuple[Sensitivity, ...] = ()
    if request.precision == "fp16":
        ledger = ledger_of(())
        if not _lost_db(ledger) <= request.budget_db:
            raise CalibrationError(
                f"float16 loses {_lost_db(ledger):.4f} dB PSNR-Y; budget {request.budget_db:g} dB. "
                "Raise --budget-db, or deploy the float32 export"
            )
    else:
        assignment, sensitivities, ledger = _search(lowering, ledger_of, progress)
    progress.phase("looking for artefacts")
    int8 = assignment.int8 if assignment else ()
    lowered = {variant: lowering.lowered(variant, int8) for variant in lowering.variants}
    gates = measure_gates(
        run_of_model(lowering.reference),
        run_of_model(lowered["whole"].evaluated),
        itertools.islice(proof, _SEARCH_PHOTOGRAPHS),
        rgb_range=source.metadata.rgb_range,
        upscale=source.metadata.upscale,
        size=lowering.size,
    )
    gates.append(compare_with_bicubic(ledger.stages[0].psnr_y_db, proof))
    models = {variant: target_model.model for variant, target_model in lowered.items()}
    ledger = replace(ledger, gates=accept(gates, request.accept))
    quantized = Quantized(models, lowering, assignment, sensitivities, ledger, proof)
    _note(quantized)
    return quantized


def _search(
    lowering: Lowering, ledger_of: Callable[[tuple[str, ...]], Ledger], progress: Progress
) -> tuple[Assignment, tuple[Sensitivity, ...], Ledger]:
    """Find the assignment with the most work in INT8 whose loss over all photographs fits.

    The search measures on the first photographs. If the loss over all photographs exceeds the
    budget, it searches again with a smaller one.
    """
    request, evaluations = lowering.request, _evaluations(lowering)
    sensitivities: list[Sensitivity] = []
    if request.sensitivity:
        sensitivities = measure_sensitivity(
            evaluations, lowering.convolutions, spared=True, progress=progress
        )
    if not lowering.convolutions:
        raise CalibrationError(
            "no convolution can be INT8: each reads or returns values beyond float16. Choose "
            "--precision fp16, or deploy the float32 export"
        )
    tightened_db, lost_db = request.budget_db, 0.0
    for _ in range(_SEARCHES):
        assignment = search(evaluations, lowering.convolutions, tightened_db, progress=progress)
        if not assignment.int8:
            break
        ledger = ledger_of(assignment.int8)
        lost_db = _lost_db(ledger)
        if lost_db <= request.budget_db:
            return assignment, tuple(sensitivities) or assignment.sensitivities, ledger
        tightened_db = assignment.measured.judged_db * request.budget_db / lost_db
    if not lost_db:
        raise CalibrationError(
            f"no convolution can be INT8 within {request.budget_db:g} dB; raise --budget-db, or "
            "choose --precision fp16"
        )
    raise CalibrationError(
        f"INT8 loses {lost_db:.4f} dB PSNR-Y over all {len(lowering.images)} photographs; budget "
        f"{request.budget_db:g} dB. Raise --budget-db, or choose --precision fp16"
    )


def _evaluations(lowering: Lowering) -> Evaluations:
    source = lowering.source

    @functools.cache
    def meter() -> LossMeter:  # not made if every loss is in the store
        return LossMeter.of(
            run_of_model(lowering.reference),
            itertools.islice(lowering.images, _SEARCH_PHOTOGRAPHS),
            rgb_range=source.metadata.rgb_range,
            upscale=source.metadata.upscale,
        )

    def measure_loss(int8: frozenset[str]) -> Loss:
        return meter().loss_of(run_of_model(lowering.lowered("whole", int8).evaluated))

    cache = lowering.request.cache
    return Evaluations(measure_loss, cache and cache / f"evaluations-{lowering.key}.json")


def _lost_db(ledger: Ledger) -> float:
    names = [stage.name for stage in ledger.stages]
    first = names.index("INT8" if "INT8" in names else "FP16")
    float32 = ledger.stages[names.index("ONNX Runtime")]
    return float32.psnr_y_db - min(stage.psnr_y_db for stage in ledger.stages[first:])


def _note(quantized: Quantized) -> None:
    """Write the lowering's parameters and measurements into the metadata."""
    lowering = quantized.lowering
    noted: QuantizationNote = {
        "budget_db": lowering.request.budget_db,
        "factor_scales": list(lowering.factor_scales),
        "images_sha256": lowering.images.digest,
        "int8": list(quantized.assignment.int8) if quantized.assignment else [],
        "precision": lowering.request.precision,
        "target": lowering.request.target.name,
    }
    for key, value in ModelMetadata(quantization=noted).to_props().items():
        for model in quantized.models.values():
            model.metadata_props.add(key=key, value=value)
