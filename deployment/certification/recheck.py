"""Whether a certificate still holds: its digest, all that it is bound to, and its figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.certification.baseline import load_baseline
from adadm.deployment.certification.candidate import load_candidate
from adadm.deployment.certification.certificate import read_certificate
from adadm.deployment.certification.certify import certify
from adadm.deployment.certification.consistency import inconsistencies
from adadm.deployment.certification.criteria import KEYS
from adadm.deployment.certification.device_result import certify_on_device
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import sha256_of
from adadm.runtime.images.arrays import find_images
from adadm.runtime.json_format import rounded
from adadm.runtime.progress import SILENT, Progress

__all__ = ["Places", "Recheck", "recheck"]

_SAME = 1e-3
"""Of a figure, on the same machine with the same software."""

_SLACK = {"psnr_y_db": 0.02, "lost_db": 0.02, "parity_db": 2.0}
"""Of figures on another one, dB: where INT8 rounds is chance. Of others: a half, and a bit."""
_SHARE, _BIT = 0.5, 0.05
_COMPARED = ("psnr_y_db", "lost_db", "parity_db", "largest_error", "factor_error")
_NOISE_DB = 100.0
"""Above, two figures of parity are both rounding of float32."""


@dataclass(frozen=True)
class Places:
    """Where things are now, if not where they were; None leaves them there."""

    model: Path | None = None
    reference: Path | None = None
    images: Sequence[Path] | None = None


@dataclass(frozen=True)
class Recheck:
    """What was found.

    Attributes:
        content: the certificate as it is.
        problems: why it does not hold.
        notes: what was not checked, and why.
    """

    content: dict[str, Any]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether all that could be checked is as the certificate says."""
        return not self.problems


def recheck(
    path: Path,
    places: Places,
    undetectable: Mapping[str, float | str | None],
    *,
    progress: Progress = SILENT,
) -> Recheck:
    """Compare a certificate with the files that it names, and with figures measured anew.

    Args:
        undetectable: `arch` and hyper-parameters of the checkpoint, as `load_baseline` takes them.

    Raises:
        CalibrationError: it is no certificate; or the files are as certified, and cannot be run.
    """
    content = read_certificate(path)
    problems = list(inconsistencies(content))
    notes: list[str] = []
    if content["kind"] == "device":
        problems += _device_problems(content, path, places)
        return Recheck(content, tuple(problems), tuple(notes))
    model, reference = (
        given or _resolved(path, content[side]["file"])
        for side, given in (("model", places.model), ("reference", places.reference))
    )
    folder = model.parent
    bound = {model: content["model"]["sha256"], reference: content["reference"]["sha256"]}
    for name, sha256 in content["model"]["companions"].items():
        bound[folder / Path(name).name] = sha256
    changed = [message for file, sha256 in bound.items() for message in _changed(file, sha256)]
    given = places.images or [_resolved(path, name) for name in content["images"]["paths"]]
    images, image_problems = _find(content["images"]["files"], given)
    problems += [*changed, *image_problems]
    if not images and not image_problems:
        listed = ", ".join(map(str, given))
        notes.append(
            f"the figures were not measured again: the photographs are not in {listed}; say where "
            "they are with --images"
        )
    elif problems:
        notes.append("the figures were not measured again, since this is not what was certified")
    else:
        found = _again(content, model, reference, images, undetectable, progress)
        problems += _differences(content, rounded(found))
    return Recheck(content, tuple(problems), tuple(notes))


def _changed(path: Path, sha256: str) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is not there; it had sha256 {sha256}"
    elif (found := sha256_of(path)) != sha256:
        yield f"{path} was changed: its sha256 is {found}, the certificate is of {sha256}"


def _find(
    files: Sequence[Mapping[str, str]], places: Sequence[Path]
) -> tuple[list[Path], list[str]]:
    """The photographs by content; and which are missing or changed, where some are there."""
    there = [place for place in places if place.exists()]
    found = find_images(there) if there else []
    by_digest = {sha256_of(path): path for path in found}
    names = {path.name: path for path in found}
    missing = [file for file in files if file["sha256"] not in by_digest]
    problems = [
        f"{names[file['name']]} was changed: its content is not that of {file['sha256']}"
        if file["name"] in names
        else f"the photograph {file['name']} is missing"
        for file in missing
    ]
    if len(missing) == len(files) and not any(file["name"] in names for file in files):
        return [], []
    return [by_digest[file["sha256"]] for file in files if file not in missing], problems


def _again(
    content: Mapping[str, Any],
    model: Path,
    reference: Path,
    images: Sequence[Path],
    undetectable: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    truth = load_baseline(reference, **undetectable)
    certified = load_candidate(model, truth, content["model"]["backend"])
    originals = content["images"]["originals"]
    tile = content["images"]["tile"]
    chosen = CalibrationImages.of(
        images,
        truth.metadata.upscale if originals else 1,
        count=len(images),
        tile=tile and (tile[0], tile[1]),
        smallest_area=truth.metadata.smallest_area,
    )
    if chosen.digest != content["images"]["digest"]:
        raise CalibrationError(
            f"the photographs are the same, their geometry is not: {chosen.digest}, the "
            f"certificate has {content['images']['digest']}"
        )
    given = content["thresholds"]["given"]
    return certify(truth, certified, chosen, originals, given, seconds=0, progress=progress).content


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Figures that are not what is measured now."""
    same = old["versions"] == new["versions"] and all(
        old["device"][part] == new["device"][part] for part in ("cpu", "gpu", "versions")
    )
    for part, (rows, now_rows) in _parts(old, new).items():
        if [row["name"] for row in rows] != [row["name"] for row in now_rows]:
            yield f"the {part} are not those that are measured now"
    for where, key, before, now in _figures(old, new):
        if not _agree(key, before, now, same):
            yield (
                f"{where} is {_shown(before)} in the certificate, measured now: {_shown(now)}"
                + ("" if same else ", on another machine or with other software")
            )
    for before, now in zip(old["checks"], new["checks"], strict=False):
        if before["passed"] != now["passed"]:
            yield f"{before['name']}: passed {before['passed']}, measured now: {now['passed']}"


def _figures(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, str, float | None, float | None]]:
    """Each figure of both: where it is, its kind, and what it is."""
    for part, sides in _parts(old, new).items():
        for before, now in zip(*sides, strict=False):
            if part == "checks":
                key = KEYS.get(before["name"], "")
                yield before["name"], key, before["figure"], now["figure"]
                continue
            for key in _COMPARED:
                if key in before and not isinstance(before[key], dict):
                    yield f"{key} of {before['name']}", key, before[key], now[key]


def _parts(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]]:
    """The rows of both that have names and figures."""
    return {
        "checks": (old["checks"], new["checks"]),
        "stages": (old["ledger"]["stages"], new["ledger"]["stages"]),
        "photographs": (old["photographs"], new["photographs"]),
    }


def _agree(kind: str, before: float | None, now: float | None, same: bool) -> bool:
    if before is None or now is None:
        return before == now
    if kind == "parity_db" and min(before, now) >= _NOISE_DB:
        return True
    if same:
        return math.isclose(before, now, rel_tol=_SAME, abs_tol=1e-6)
    if kind in _SLACK:
        return abs(before - now) <= _SLACK[kind]
    return abs(before - now) <= _SHARE * max(abs(before), abs(now)) + _BIT


def _shown(figure: float | None) -> str:
    return "infinite" if figure is None else f"{figure:.6g}"


def _device_problems(content: Mapping[str, Any], path: Path, places: Places) -> Iterator[str]:
    """Of a device's certificate: the result and the bundle that it comes from."""
    result = places.model or _resolved(path, content["result"])
    bundle = places.reference or _resolved(path, content["reference"]["file"]).parent
    for name in (result, bundle):
        if not name.exists():
            yield f"{name} is not there"
            return
    changed = list(_changed(result, content["result_sha256"]))
    yield from changed
    if changed:
        return
    again = rounded(certify_on_device(result, bundle))
    for key in ("passed", "failures", "model", "references", "latency", "device"):
        before = content[key]
        if key == "model":
            before = {**before, "file": again["model"]["file"]}
        if before != again[key]:
            yield f"{key} is not what {result.name} and the bundle {bundle} give"


def _resolved(certificate: Path, name: str) -> Path:
    return (certificate.resolve().parent / name).resolve()
