"""Check a certificate again: its digest, the files that it names, and its figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adadm.calibration.quality.ledger import StageResult
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.certification.baseline import Baseline, load_baseline
from adadm.deployment.certification.candidate import load_candidate
from adadm.deployment.certification.certificate import (
    Certificate,
    DeviceCertificate,
    ImageFile,
    Images,
    ModelCertificate,
    read_certificate,
    sealed,
)
from adadm.deployment.certification.certify import certify
from adadm.deployment.certification.consistency import inconsistencies
from adadm.deployment.certification.criteria import KEYS, Check
from adadm.deployment.certification.device_result import certify_on_device
from adadm.deployment.certification.observations import PhotographResult
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import real_path, sha256_of
from adadm.runtime.images.arrays import find_images
from adadm.runtime.progress import SILENT, Progress

_SAME = 1e-3
"""Relative tolerance of a figure on the same machine and software."""

_SLACK = {"psnr_y_db": 0.02, "lost_db": 0.02, "parity_db": 2.0}
"""Tolerances on another machine, dB, since INT8 rounding depends on chance."""
_SHARE, _BIT = 0.5, 0.05  # of figures not in _SLACK: relative and absolute
_COMPARED = ("psnr_y_db", "lost_db", "parity_db", "largest_error", "factor_error")
_NOISE_DB = 100.0
"""Parity above which two figures both show only rounding of float32."""

_Row = Check | StageResult | PhotographResult


@dataclass(frozen=True)
class Places:
    """New paths of files that were moved; None for those that were not."""

    model: Path | None = None
    reference: Path | None = None
    images: Sequence[Path] | None = None


@dataclass(frozen=True)
class Recheck:
    """Result of a recheck.

    Attributes:
        problems: reasons why the certificate does not hold; empty if it holds.
        notes: parts that were not checked, and why.
    """

    certificate: Certificate
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def recheck(
    path: Path, places: Places, undetectable: Mapping[str, Any], *, progress: Progress = SILENT
) -> Recheck:
    """Compare a certificate with the files that it names, and with a newly made one.

    Args:
        undetectable: `arch` and hyper-parameters of the checkpoint, as in `load_baseline`.

    Raises:
        CalibrationError: the file is not a certificate; or the certified files cannot be run.
    """
    certificate = read_certificate(path)
    problems = list(inconsistencies(certificate))
    if isinstance(certificate, DeviceCertificate):
        problems += _device_problems(certificate, path, places)
        return Recheck(certificate, tuple(problems), ())
    notes = []
    model = places.model or _resolved(path, certificate.model.file)
    reference = places.reference or _resolved(path, certificate.reference.file)
    bound = {**_model_files(certificate, model), reference: certificate.reference.sha256}
    changed = [message for file, sha256 in bound.items() for message in _changed(file, sha256)]
    given = places.images or [_resolved(path, name) for name in certificate.images.paths]
    images, image_problems = _find(certificate.images.files, given)
    problems += [*changed, *image_problems]
    if not images and not image_problems:
        listed = ", ".join(map(str, given))
        notes.append(
            f"the figures were not measured again: the photographs are not in {listed}; give their "
            "path with --images"
        )
    elif problems:
        notes.append("the figures were not measured again, since the certified files have changed")
    else:
        truth = load_baseline(reference, **undetectable)
        again = certify(
            truth,
            load_candidate(model, truth, certificate.model.backend),
            _choose(images, certificate.images, truth),
            originals=certificate.images.originals,
            given=certificate.thresholds.given,
            accepted=certificate.accepted,
            at=path,
            seconds=0,
            progress=progress,
        )
        problems += _differences(certificate, sealed(again.certificate))
    return Recheck(certificate, tuple(problems), tuple(notes))


def check_files(path: Path, certificate: Certificate) -> tuple[list[Path], list[str]]:
    """Compare the certified model and the files beside it with the certificate.

    Returns:
        Files that are missing, and a sentence for each that was changed. None of a device's
        certificate, which names files on the device.
    """
    if not isinstance(certificate, ModelCertificate):
        return [], []
    files = _model_files(certificate, _resolved(path, certificate.model.file))
    here = {file: sha256 for file, sha256 in files.items() if file.is_file()}
    changed = [message for file, sha256 in here.items() for message in _changed(file, sha256)]
    return [file for file in files if file not in here], changed


def _model_files(certificate: ModelCertificate, model: Path) -> dict[Path, str | None]:
    """Digests of a model and of the files that belong to it."""
    companions = certificate.model.companions.items()
    beside = {model.parent / Path(name).name: sha256 for name, sha256 in companions}
    return {model: certificate.model.sha256, **beside}


def _changed(path: Path, sha256: str | None) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing; it had sha256 {sha256}"
    elif (digest := sha256_of(path)) != sha256:
        yield f"{path} was changed: expected sha256 {sha256}, got {digest}"


def _find(files: Sequence[ImageFile], places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Find photographs by content; problems are missing or changed ones, if others are found."""
    existing = [place for place in places if place.exists()]
    images = find_images(existing) if existing else []
    by_digest: dict[str, Path] = {}
    for path in sorted(images, key=lambda path: (path.name, path)):  # as they were chosen
        by_digest.setdefault(sha256_of(path), path)
    names = {path.name: path for path in images}
    missing = [file for file in files if file.sha256 not in by_digest]
    problems = [
        f"{names[file.name]} was changed: expected sha256 {file.sha256}"
        if file.name in names
        else f"the photograph {file.name} is missing"
        for file in missing
    ]
    if len(missing) == len(files) and not any(file.name in names for file in files):
        return [], []
    return [by_digest[file.sha256] for file in files if file not in missing], problems


def _choose(paths: Sequence[Path], certified: Images, truth: Baseline) -> CalibrationImages:
    """Choose the certified photographs at the certified size."""
    chosen = CalibrationImages.of(
        paths,
        truth.metadata.upscale if certified.originals else 1,
        count=len(paths),
        tile=certified.tile,
        smallest_area=truth.metadata.smallest_area,
    )
    if chosen.digest != certified.digest:
        raise CalibrationError(
            "the photographs are the same, but their geometry differs: expected the digest "
            f"{certified.digest}, got {chosen.digest}"
        )
    return chosen


def _differences(old: ModelCertificate, new: ModelCertificate) -> Iterator[str]:
    """Yield a sentence for each figure that differs from the new measurement."""
    ran_on = [(c.versions, c.device.versions, c.device.cpu, c.device.gpu) for c in (old, new)]
    same = ran_on[0] == ran_on[1]
    elsewhere = "" if same else ", on another machine or with other software"
    parts: dict[str, tuple[Sequence[_Row], Sequence[_Row]]] = {
        "checks": (old.checks, new.checks),
        "stages": (old.ledger.stages, new.ledger.stages),
        "photographs": (old.photographs, new.photographs),
    }
    for part, (rows, now_rows) in parts.items():
        if [row.name for row in rows] != [row.name for row in now_rows]:
            yield f"the names of the {part} differ from those measured now"
        for row, now_row in zip(rows, now_rows, strict=False):
            for (kind, before), (_, now) in zip(_figures(row), _figures(now_row), strict=True):
                if not _agree(kind, before, now, same=same):
                    where = row.name if isinstance(row, Check) else f"{kind} of {row.name}"
                    yield (
                        f"{where} is {_shown(before)} in the certificate, measured now: "
                        f"{_shown(now)}{elsewhere}"
                    )
    for check, now_check in zip(old.checks, new.checks, strict=False):
        if check.passed != now_check.passed:
            yield f"{check.name}: passed {check.passed}, measured now: {now_check.passed}"


def _figures(row: _Row) -> list[tuple[str, float | None]]:
    """Figures of a row, each with its kind."""
    if isinstance(row, Check):
        return [(KEYS.get(row.name, ""), row.figure)]
    figures = ((kind, vars(row).get(kind)) for kind in _COMPARED)
    return [(kind, figure) for kind, figure in figures if not isinstance(figure, dict)]


def _agree(kind: str, before: float | None, now: float | None, *, same: bool) -> bool:
    if before is None or now is None or math.inf in (before, now):
        return before == now
    if kind == "parity_db" and min(before, now) >= _NOISE_DB:
        return True
    if same:
        return math.isclose(before, now, rel_tol=_SAME, abs_tol=1e-6)
    if kind in _SLACK:
        return abs(before - now) <= _SLACK[kind]
    return abs(before - now) <= _SHARE * max(abs(before), abs(now)) + _BIT


def _shown(figure: float | None) -> str:
    return "infinite" if figure in (None, math.inf) else f"{figure:.6g}"


def _device_problems(certificate: DeviceCertificate, path: Path, places: Places) -> Iterator[str]:
    """Yield differences of a device's certificate from its result and its bundle."""
    result = places.model or _resolved(path, certificate.result)
    bundle = places.reference or _resolved(path, certificate.reference.file).parent
    if missing := [place for place in (result, bundle) if not place.exists()]:
        yield f"{missing[0]} is missing"
        return
    if changed := list(_changed(result, certificate.result_sha256)):
        yield from changed
        return
    taken = certify_on_device(result, bundle, at=path, accepted=certificate.accepted)
    again = vars(sealed(taken))
    for name in ("passed", "failures", "model", "references", "latency", "device"):
        if vars(certificate)[name] != again[name]:
            yield f"{name} differs from that of {result.name} and the bundle {bundle}"


def _resolved(certificate: Path, name: str) -> Path:
    try:
        return real_path(real_path(certificate).parent / name)
    except ValueError as error:  # a null byte
        raise CalibrationError(f"{certificate}: expected a file name, got {name!r}") from error
