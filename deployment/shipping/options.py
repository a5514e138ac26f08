"""Options of a run of `adadm ship`, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adadm.calibration.lowering import BUDGETS_DB, Precision
from adadm.deployment.certification.certificate import ModelCertificate
from adadm.runtime.targets import Target

_SUFFIXES = (".onnx", ".json", ".html", ".svg", ".sig")
"""Suffixes of the files in the folder of models."""


@dataclass(frozen=True)
class ShipOptions:
    """Options of a run.

    Attributes:
        undetectable: `arch` and hyper-parameters, as in `load_checkpoint`.
        photographs: largest number of originals to use.
        budgets_db: limit of the PSNR-Y loss in dB, by precision.
        stats: `external` makes the models for tiles too.
        wheels: include the wheels for the device's Python in bundles.
        cache: folder for measured ranges and losses.
        sign: private key for certificates and bundles.
        accept: names of checks, drawn inputs and photographs whose failure is accepted.
    """

    checkpoint: Path
    images: Sequence[Path]
    targets: Sequence[Target]
    folder: Path
    undetectable: Mapping[str, Any] = field(default_factory=dict)
    photographs: int = 24
    budgets_db: Mapping[Precision, float] = field(default_factory=lambda: dict(BUDGETS_DB))
    stats: Literal["internal", "external"] = "internal"
    wheels: bool = True
    cache: Path | None = None
    sign: Path | None = None
    accept: Sequence[str] = ()


@dataclass(frozen=True)
class ShipResult:
    """One row of the summary.

    Attributes:
        target: name of the target; `any` for the float32 export.
        model: path of the model; None if it could not be made.
        certificate: content of its certificate.
        made: engine and bundle, relative to the folder.
        problem: reason why there is no model.
    """

    target: str
    precision: str
    model: Path | None
    certificate: ModelCertificate | None
    made: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """True if there is a model and it was certified."""
        return self.certificate is not None and self.certificate.passed


def made_before(folder: Path, checkpoint: Path) -> list[Path]:
    """Files in a folder that a run for a checkpoint may rewrite."""
    models = (folder / "models").glob(f"{checkpoint.stem}.*")
    return [
        folder / "steps.json",
        folder / "summary.json",
        *(path for path in models if path.suffix in _SUFFIXES),
        *(folder / "engines").glob(f"{checkpoint.stem}.*"),
        *(folder / "bundles").rglob("*"),
    ]
