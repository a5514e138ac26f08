"""The format of certificates, and their digest.

The classes here, and the types of their fields, define the file: a JSON object with these fields.
Figures have six digits; one that is not finite is null. The digest detects damage and careless
edits. It is not a signature, which is a file beside it, if the user has a key: without one, a
changed figure with a corrected digest is detected only when the figures are measured again.
"""

from __future__ import annotations

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
from adadm.runtime.files import real_path
from adadm.runtime.json_format import Source, convert, load, rounded
from adadm.runtime.records import digest_of


@dataclass(frozen=True, kw_only=True)
class Model:
    """The certified model. Files are named relative to the certificate.

    Attributes:
        sha256: digest of the file; None if a device reports none.
        bytes: size of the file; None for a file on a device.
        precision: float32, fp16 or int8.
        backend, description: software that ran it.
        upscale, rgb_range, io, architecture, checkpoint_sha256: values of its metadata.
        target: target that it was lowered for.
        companions: digests of the files that belong to it.
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
    """An engine or a model on a device. Files are named relative to its bundle.

    Attributes:
        source_sha256: digest of the model that the bundle was made from.
    """

    source_sha256: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference of the model: a network, or the manifest of a bundle."""

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
    """The photographs that both models ran on.

    Attributes:
        described: number chosen, number found, and size.
        originals: True if they were reduced from originals, so that PSNR-Y is known.
        tile: H and W of the window cut from the middle; None for whole photographs.
        digest: `CalibrationImages.digest`.
        paths: files and folders of the photographs.
    """

    described: str
    originals: bool
    tile: tuple[int, int] | None
    digest: str
    files: tuple[ImageFile, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Stages:
    """Loss of each stage over the photographs; the first stages are the reference's."""

    photographs: int
    stages: tuple[StageResult, ...]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Fields of every certificate.

    Attributes:
        adadm: version that made it.
        made: time, in ISO 8601.
        failures: a sentence for each reason why the model did not pass.
        place: first layer that is wrong; None if unknown.
        device: machine on which the figures were measured.
        versions: versions of the software that computed them.
        sha256: digest of all other fields; empty until `sealed`.
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
    """Certificate of a model or an engine that ran here, with its reference.

    Attributes:
        accepted: names of checks, drawn inputs and photographs whose failure the user accepts.
        blocks: modulation factors; empty without modulators.
        layers: results in graph order; empty for an engine.
        speed: speed of the reference and of the model.
    """

    kind: Literal["model"] = "model"
    images: Images
    thresholds: Thresholds
    accepted: tuple[str, ...]
    checks: tuple[Check, ...]
    ledger: Stages
    photographs: tuple[PhotographResult, ...]
    blocks: tuple[BlockResult, ...]
    layers: tuple[LayerResult, ...]
    speed: tuple[Speed, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceCertificate(Certificate):
    """Certificate of a device, made from the file of its bundle's `verify.py`.

    Attributes:
        result, result_sha256: path and digest of that file.
        references: its rows.
        latency, reason, diagnosis: values of that file; None if it lacks them.
        accepted: `no-engine` if the user accepts that no engine was run.
    """

    kind: Literal["device"] = "device"
    model: ModelOnDevice
    result: str
    result_sha256: str
    references: tuple[CaseRow, ...]
    latency: Latency | None
    reason: str | None
    diagnosis: str | None
    accepted: tuple[str, ...]


AnyCertificate = TypeVar("AnyCertificate", bound=Certificate)


def sealed(certificate: AnyCertificate) -> AnyCertificate:
    """Round the figures of a certificate to six digits, and add its digest, as in its file."""
    content = {**rounded(certificate), "sha256": digest_of(rounded(certificate))}
    return convert(content, type(certificate), Source(Path("certificate"), CalibrationError))


def read_certificate(path: Path) -> ModelCertificate | DeviceCertificate:
    """Read a certificate without checking its digest.

    Raises:
        CalibrationError: the file is not a certificate of this format.
    """
    source = Source(path, CalibrationError, "adadm validate writes certificates of format 1")
    content = load(source)
    if isinstance(content, dict) and content.get("kind") == "device":
        return convert(content, DeviceCertificate, source)
    return convert(content, ModelCertificate, source)


def relative(path: Path, certificate: Path) -> str:
    """Path of a file relative to the certificate, as the certificate names it."""
    return Path(os.path.relpath(real_path(path), real_path(certificate).parent)).as_posix()
