"""The whole inspection of a network, with or without photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.calibration.lowering import BUDGETS_DB, Lowering, LoweringOptions
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.inspection.contrast import Contrast
from adadm.deployment.inspection.findings import Finding, find
from adadm.deployment.inspection.headroom import Headroom, measure_headroom
from adadm.deployment.inspection.inspected_file import InspectedFile
from adadm.deployment.inspection.responses import (
    BlockResponse,
    Spread,
    measure_deployed_responses,
    measure_responses,
)
from adadm.deployment.inspection.structure import Block, Normalization
from adadm.runtime import json_format
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.targets import TARGETS


@dataclass(frozen=True)
class Inspection:
    """Content of the tables, the picture and the JSON file.

    Attributes:
        contrast: contrast that the network bears; None if not measured.
        images: photographs that were run; None without photographs.
        responses: responses of each block in graph order; empty without photographs.
        headroom: headroom by block name, key None for the rest; empty without photographs, and
            for a folded or lowered file.
    """

    inspected: InspectedFile
    findings: Sequence[Finding]
    contrast: Contrast | None = None
    images: CalibrationImages | None = None
    responses: Sequence[BlockResponse] = ()
    headroom: Mapping[str | None, Headroom] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The inspection, for `json_format.text`; equal for equal runs."""
        inspected, structure = self.inspected, self.inspected.structure
        parameters = inspected.hyperparameters
        blocks = [_block_as_json(block) for block in structure.blocks]
        for block, response in zip(blocks, self.responses, strict=False):
            block |= {k: _spread_as_json(v) for k, v in vars(response).items() if k != "channels"}
        for block in blocks:
            block["headroom"] = self.headroom.get(block["name"])
        report = {
            "version": version("adadm-deploy"),
            "file": inspected.path.name,
            "sha256": inspected.sha256,
            "architecture": inspected.metadata.architecture,
            "upscale": inspected.metadata.upscale,
            "form": inspected.export_notes,
            "hyperparameters": parameters,
            "images": self.images and str(self.images),
            "images_sha256": self.images and self.images.digest,
            "blocks": blocks,
            "elsewhere": {
                "normalizations": [_normalization_as_json(n) for n in structure.elsewhere],
                "headroom": self.headroom.get(None),
            },
            "slow_channels": structure.slow_channels,
            "batch_normalizations": inspected.decisions,
            "contrast": _contrast_as_json(self.contrast),
            "findings": [finding.as_json() for finding in self.findings],
        }
        ready: dict[str, Any] = json_format.rounded(report)
        return ready


def inspect_weights(inspected: InspectedFile, contrast: Contrast | None = None) -> Inspection:
    """Inspect the weights, with the contrast that was measured."""
    return Inspection(inspected, find(inspected, contrast=contrast), contrast)


def inspect_on_images(
    inspected: InspectedFile,
    images: CalibrationImages,
    cache: Path | None = None,
    *,
    contrast: Contrast | None = None,
    progress: Progress = SILENT,
) -> Inspection:
    """Inspect the weights, and the network's responses to photographs.

    Args:
        cache: folder of measured ranges, shared with `adadm quantize`.
        contrast: result of `measure_contrast`.

    Raises:
        CalibrationError: the network diverges on a photograph.
    """
    if (source := inspected.source) is None:
        responses = measure_deployed_responses(inspected, images, progress=progress)
        findings = find(inspected, responses, contrast=contrast)
        return Inspection(inspected, findings, contrast, images, responses)
    # On a target that computes in float32 the trunk is not scaled.
    request = LoweringOptions(
        "int8", TARGETS["cpu"], BUDGETS_DB["int8"], static=source.static, cache=cache
    )
    lowering = Lowering.of(source, images, request, progress=progress)
    responses = measure_responses(lowering, progress=progress)
    names = [block.name for block in inspected.structure.blocks]
    headroom = measure_headroom(lowering, names)
    findings = find(inspected, responses, headroom, contrast)
    return Inspection(inspected, findings, contrast, images, responses, headroom)


def _contrast_as_json(contrast: Contrast | None) -> dict[str, Any] | None:
    if contrast is None:
        return None
    forms = {"deployed": contrast.deployed, "without_limits": contrast.unlimited}
    return {name: form and form.as_json() for name, form in forms.items()}


def _block_as_json(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "weight": block.weight,
        "bias": block.bias,
        "trunk_std_in_training": block.trunk_std,
        "normalizations": [_normalization_as_json(n) for n in block.normalizations],
    }


def _normalization_as_json(found: Normalization) -> dict[str, Any]:
    decision = found.decision
    return {
        "name": found.name,
        "kind": found.kind,
        "gamma": _range(found.gamma),
        "scale": None if found.scale is None else _range(found.scale),
        "shift": None if found.shift is None else _range(found.shift),
        "negative_share": found.negative_share,
        "near_zero_share": found.near_zero_share,
        "largest_center": found.largest_center,
        "form": decision and decision.result,
        "kept_because": decision and decision.reason,
    }


def _spread_as_json(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else {**asdict(spread), "ratio": spread.ratio}


def _range(values: npt.NDArray[np.float64]) -> list[float]:
    return [float(values.min()), float(values.max())]
