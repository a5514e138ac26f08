"""What a certificate says, and its own digest.

The classes here, and those that they are made of, are the format of the file: a JSON object with
their fields. Figures have six digits; one that is not finite is null. The digest finds damage and
careless edits. It is no signature: who changes a figure and mends the digest is found when the
figures are measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from adadm.calibration.quality.ledger import StageResult
from adadm.deployment.certification.criteria import Check, Thresholds
from adadm.deployment.certification.layers.divergence import Divergence, LayerResult
from adadm.deployment.certification.observations import BlockResult, PhotographResult
from adadm.deployment.certification.speed import Speed
from adadm.runtime.bundles.case_results import CaseRow, Latency
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.errors import CalibrationError
from adadm.runtime.json_format import Source, as_json, convert, load, rounded


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was certified. Files are named relative to the certificate.

    Attributes:
        sha256: of the file; None where a device names none.
        bytes: the size of the file; None of a file on a device.
        precision: float32, fp16 or int8.
        backend, description: what ran it.
        upscale, rgb_range, io, architecture, checkpoint_sha256: as its metadata has them.
        target: what it was lowered for.
        companions: the digests of the files that belong to it.
    """

    file: str
    sha256: str | None
    bytes: int | None
    precision: str
    backend: str
    description: str
    architecture: str | None
    upscale: int | None
    rgb_range: float | None
    io: str | None
    target: str | None
    checkpoint_sha256: str | None
    companions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ModelOnDevice(Model):
    """The same of an engine or a model on a device, by names in its bundle.

    Attributes:
        source_sha256: of the model that the bundle was made from.
    """

    source_sha256: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the model is held to: a network, or the manifest of a bundle."""

    file: str
    sha256: str
    bytes: int
    description: str


@dataclass(frozen=True)
class ImageFile:
    """One photograph."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Images:
    """What both ran on.

    Attributes:
        described: how many, of how many, of what size.
        originals: whether they were reduced, so that PSNR-Y is known.
        tile: H and W that were cut from the middle; None for whole photographs.
        digest: as `CalibrationImages` has it.
        paths: where the photographs were.
    """

    described: str
    originals: bool
    tile: tuple[int, int] | None
    digest: str
    files: tuple[ImageFile, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Stages:
    """What each stage costs, over so many photographs; the first stages are the reference's."""

    photographs: int
    stages: tuple[StageResult, ...]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What every certificate says.

    Attributes:
        adadm: the version that made it.
        made: when, in ISO 8601.
        failures: a sentence for each reason why it did not pass.
        place: where it goes wrong; None where nobody knows.
        device: what the figures were measured on.
        versions: of what computed them.
        sha256: the digest of all the rest; empty until it is `sealed`.
    """

    format: Literal[1] = 1
    kind: str
    adadm: str
    made: str
    passed: bool
    failures: tuple[str, ...]
    place: Divergence | None
    model: Model
    reference: Reference
    device: DeviceInfo
    versions: Mapping[str, str | None]
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelCertificate(Certificate):
    """Of a model or an engine that ran here, beside its reference.

    Attributes:
        blocks: the modulation factors; empty without modulators.
        layers: in the order of the graph; empty for an engine.
        speed: of the reference and of the model.
    """

    kind: Literal["model"] = "model"
    images: Images
    thresholds: Thresholds
    checks: tuple[Check, ...]
    ledger: Stages
    photographs: tuple[PhotographResult, ...]
    blocks: tuple[BlockResult, ...]
    layers: tuple[LayerResult, ...]
    speed: tuple[Speed, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceCertificate(Certificate):
    """Of a device, by what its bundle's `verify.py` wrote.

    Attributes:
        result, result_sha256: that file.
        references: its rows.
        latency, reason, diagnosis: as it has them; None where it does not.
    """

    kind: Literal["device"] = "device"
    model: ModelOnDevice
    result: str
    result_sha256: str
    references: tuple[CaseRow, ...]
    latency: Latency | None
    reason: str | None
    diagnosis: str | None


AnyCertificate = TypeVar("AnyCertificate", bound=Certificate)


def sealed(certificate: AnyCertificate) -> AnyCertificate:
    """A certificate as its file has it: figures of six digits, and its digest."""
    content = {**rounded(certificate), "sha256": digest_of(rounded(certificate))}
    return convert(content, type(certificate), Source(Path("certificate"), CalibrationError))


def read_certificate(path: Path) -> ModelCertificate | DeviceCertificate:
    """Read a certificate, whatever its digest.

    Raises:
        CalibrationError: it is no certificate of this format.
    """
    source = Source(path, CalibrationError, "adadm validate writes certificates of format 1")
    content = load(source)
    if isinstance(content, dict) and content.get("kind") == "device":
        return convert(content, DeviceCertificate, source)
    return convert(content, ModelCertificate, source)


def digest_of(certificate: Certificate | Mapping[str, object]) -> str:
    """Of all but the digest itself."""
    rest = {name: value for name, value in as_json(certificate).items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def relative(path: Path, certificate: Path) -> str:
    """How a certificate names a file."""
    return Path(os.path.relpath(path.resolve(), certificate.resolve().parent)).as_posix()
