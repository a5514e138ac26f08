"""Whether a certificate holds by itself, before anything is measured again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adadm.calibration.quality.gates import GATES
from adadm.deployment.certification.certificate import digest_of, read_certificate
from adadm.deployment.certification.criteria import CRITERIA, KEYS, Thresholds
from adadm.runtime.errors import CalibrationError
from adadm.runtime.json_format import rounded

__all__ = ["inconsistencies", "is_certificate_of"]


def inconsistencies(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a certificate by itself.

    Raises:
        KeyError, TypeError: it lacks what every certificate has.
    """
    if (found := digest_of(content)) != content.get("sha256"):
        yield (
            f"it was changed since it was written: its content has the digest {found}, the "
            f"certificate says {content.get('sha256')}"
        )
    if content["kind"] == "device":
        return
    limits = dict(content["thresholds"]["limits"])
    expected = Thresholds.of(content["model"]["precision"], content["thresholds"]["given"]).limits
    for name in expected.keys() | limits.keys():
        if expected.get(name) != limits.get(name):
            yield f"the limit {name} is {limits.get(name)}, by default it is {expected.get(name)}"
    by_name = {(check["name"]): check for check in content["checks"]}
    asked = {CRITERIA["parity_db"].name, *(gate.name for gate in GATES)}
    asked |= {CRITERIA["lost_db"].name} if content["images"]["originals"] else set()
    for name in sorted(asked - by_name.keys()):
        yield f"it has no check of {name}"
    for name, check in by_name.items():
        figure = math.inf if check["figure"] is None else check["figure"]
        within = figure >= check["limit"] if check["at_least"] else figure <= check["limit"]
        if within != check["passed"]:
            yield f"{name} is {figure:g} of {check['limit']:g}, and is said to have " + (
                "passed" if check["passed"] else "failed"
            )
        if check["limit"] != limits.get(KEYS.get(name, "")):
            yield f"{name} is held to {check['limit']:g}, which is not its limit"
    if content["passed"] != all(check["passed"] for check in by_name.values()):
        yield "the verdict is not that of the checks"


def is_certificate_of(
    path: Path,
    model: str,
    companions: Mapping[str, str],
    reference: str,
    images: str,
    given: Mapping[str, float],
) -> bool:
    """Whether a file is a certificate of these that holds by itself, and has all checks.

    Its figures are not measured again.

    Args:
        model, reference, images: their digests.
        companions: the digests of the files that belong to the model, by their names.
        given: limits that are not the defaults.
    """
    try:
        found = read_certificate(path)
        return (
            found["kind"] == "model"
            and not any(inconsistencies(found))
            and {check["name"] for check in found["checks"]} == KEYS.keys()
            and found["model"]["sha256"] == model
            and {Path(k).name: v for k, v in found["model"]["companions"].items()} == companions
            and found["reference"]["sha256"] == reference
            and found["images"]["digest"] == images
            and found["thresholds"]["given"] == rounded(dict(given))
        )
    except (CalibrationError, AttributeError, LookupError, TypeError, ValueError):
        return False
