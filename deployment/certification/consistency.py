"""Consistency of a certificate with itself, before anything is measured again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from adadm.calibration.quality.gates import GATES, LOST
from adadm.deployment.certification.certificate import (
    Certificate,
    ModelCertificate,
    read_certificate,
)
from adadm.deployment.certification.criteria import (
    BEYOND_LIMIT,
    CRITERIA,
    KEYS,
    Thresholds,
    check_limits,
)
from adadm.runtime.errors import CalibrationError
from adadm.runtime.json_format import rounded
from adadm.runtime.records import digest_of


def inconsistencies(certificate: Certificate) -> Iterator[str]:
    """Yield a sentence for each contradiction within a certificate."""
    if (digest := digest_of(certificate)) != certificate.sha256:
        yield (
            f"it was changed after it was written: expected the digest {certificate.sha256}, got "
            f"{digest}"
        )
    if not isinstance(certificate, ModelCertificate):
        return
    limits, precision = certificate.thresholds.limits, certificate.model.precision
    if precision not in CRITERIA["parity_db"].limits:
        yield f"expected a precision with limits, got {precision!r}"
        return
    expected = Thresholds.of(precision, certificate.thresholds.given).limits
    for name in expected.keys() | limits.keys():
        if expected.get(name) != limits.get(name):
            yield f"limit {name}: expected {expected.get(name)}, got {limits.get(name)}"
    required = {CRITERIA["parity_db"].name, *(gate.name for gate in GATES)}
    required |= {CRITERIA["lost_db"].name} if certificate.images.originals else set()
    for name in sorted(required - {check.name for check in certificate.checks}):
        yield f"the check of {name} is missing"
    for check in certificate.checks:
        if check.is_within != check.passed:
            yield (
                f"{check.name} is {check.figure:g}, limit {check.limit:g}, but is recorded as "
                + ("passed" if check.passed else "failed")
            )
        if check.name in KEYS and check.limit != limits.get(KEYS[check.name]):
            yield f"the limit {check.limit:g} of {check.name} contradicts the certificate's limits"
        if check.accepted != (not check.passed and check.name in certificate.accepted):
            yield f"{check.name} is recorded as accepted {check.accepted}, against the names given"
    yield from _contradictions_by_name(certificate)
    if certificate.passed != all(check.passed or check.accepted for check in certificate.checks):
        yield "the verdict contradicts the checks"


def _contradictions_by_name(certificate: ModelCertificate) -> Iterator[str]:
    """Compare the checks of inputs and photographs with what the certificate has of them."""
    by_name = {check.name for check in certificate.checks} - KEYS.keys()
    lost = {name for check in certificate.checks for name in check.left_out}
    reached = {check.name: check for check in check_limits(certificate.photographs)}
    for name in sorted(by_name ^ (lost | reached.keys())):
        yield f"the check of {name} is " + ("missing" if name not in by_name else "unfounded")
    for check in certificate.checks:
        if check.name not in by_name:
            continue
        expected = {LOST.unit: LOST.threshold, BEYOND_LIMIT.unit: BEYOND_LIMIT.threshold}
        figure = reached[check.name].figure if check.unit == BEYOND_LIMIT.unit else check.figure
        if (check.limit, check.figure) != (expected.get(check.unit), figure):
            yield f"the figure or the limit of {check.name} contradicts its photograph"


def is_certificate_of(
    path: Path,
    model: str,
    *,
    companions: Mapping[str, str],
    reference: str,
    images: str,
    given: Mapping[str, float],
    accepted: Collection[str],
) -> bool:
    """True if a file is a consistent certificate of these inputs with all checks.

    Its figures are not measured again.

    Args:
        model, reference, images: expected digests.
        companions: digests of the files that belong to the model, by file name.
        given: limits other than the defaults.
        accepted: names whose failure is accepted.
    """
    try:
        certificate = read_certificate(path)
    except CalibrationError:
        return False
    return (
        isinstance(certificate, ModelCertificate)
        and not any(inconsistencies(certificate))
        and {check.name for check in certificate.checks} >= KEYS.keys()
        and set(certificate.accepted) == set(accepted)
        and certificate.model.sha256 == model
        and {Path(name).name: digest for name, digest in certificate.model.companions.items()}
        == companions
        and certificate.reference.sha256 == reference
        and certificate.images.digest == images
        and certificate.thresholds.given == rounded(given)
    )
