"""Whether a certificate holds by itself, before anything is measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from adadm.calibration.quality.gates import GATES
from adadm.deployment.certification.certificate import (
    Certificate,
    ModelCertificate,
    digest_of,
    read_certificate,
)
from adadm.deployment.certification.criteria import CRITERIA, KEYS, Thresholds
from adadm.runtime.errors import CalibrationError
from adadm.runtime.json_format import rounded


def inconsistencies(certificate: Certificate) -> Iterator[str]:
    """What is wrong with a certificate by itself."""
    if (digest := digest_of(certificate)) != certificate.sha256:
        yield (
            f"it was changed since it was written: its content has the digest {digest}, the "
            f"certificate says {certificate.sha256}"
        )
    if not isinstance(certificate, ModelCertificate):
        return
    limits, precision = certificate.thresholds.limits, certificate.model.precision
    if precision not in CRITERIA["parity_db"].limits:
        yield f"its precision is {precision!r}, which has no limits"
        return
    expected = Thresholds.of(precision, certificate.thresholds.given).limits
    for name in expected.keys() | limits.keys():
        if expected.get(name) != limits.get(name):
            yield f"the limit {name} is {limits.get(name)}, by default it is {expected.get(name)}"
    required = {CRITERIA["parity_db"].name, *(gate.name for gate in GATES)}
    required |= {CRITERIA["lost_db"].name} if certificate.images.originals else set()
    for name in sorted(required - {check.name for check in certificate.checks}):
        yield f"it has no check of {name}"
    for check in certificate.checks:
        if check.is_within != check.passed:
            yield f"{check.name} is {check.figure:g} of {check.limit:g}, and is said to have " + (
                "passed" if check.passed else "failed"
            )
        if check.limit != limits.get(KEYS.get(check.name, "")):
            yield f"{check.name} is held to {check.limit:g}, which is not its limit"
    if certificate.passed != all(check.passed for check in certificate.checks):
        yield "the verdict is not that of the checks"


def is_certificate_of(
    path: Path,
    model: str,
    *,
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
        certificate = read_certificate(path)
    except CalibrationError:
        return False
    return (
        isinstance(certificate, ModelCertificate)
        and not any(inconsistencies(certificate))
        and {check.name for check in certificate.checks} == KEYS.keys()
        and certificate.model.sha256 == model
        and {Path(name).name: digest for name, digest in certificate.model.companions.items()}
        == companions
        and certificate.reference.sha256 == reference
        and certificate.images.digest == images
        and certificate.thresholds.given == rounded(given)
    )
