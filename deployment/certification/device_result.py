"""Make the certificate of a device from the file of `verify.py --json`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path

from adadm.calibration.quality.acceptance import check_accepted
from adadm.deployment.certification.certificate import (
    DeviceCertificate,
    ModelOnDevice,
    Reference,
    relative,
)
from adadm.deployment.certification.layers.divergence import Divergence
from adadm.runtime.bundles.bundle import MANIFEST, Bundle, ReferenceCase, could_be_imported
from adadm.runtime.bundles.case_results import CaseRow
from adadm.runtime.bundles.verification import VerificationReport
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import sha256_of
from adadm.runtime.json_format import Source, convert, load
from adadm.runtime.models.onnx_reader import read_onnx

NO_ENGINE = "no-engine"
"""Name of the failure that models ran in place of the engine."""


def certify_on_device(
    result: Path, folder: Path, *, at: Path, accepted: Collection[str] = ()
) -> DeviceCertificate:
    """Compare the figures of a device with those that the bundle requires.

    The verdict follows from the figures and the digests. The device's own verdict must also be
    positive.

    Args:
        result: file of `verify.py --json` on the device.
        folder: the unchanged bundle that was copied to the device.
        at: future path of the certificate, which names files relative to it.
        accepted: failures that are accepted; the only one is `NO_ENGINE`.

    Raises:
        CalibrationError: `result` is not such a file, or an accepted name is unknown.
        EngineError: the folder is not a bundle.
    """
    check_accepted(accepted, (NO_ENGINE,))
    bundle = Bundle.open(folder)
    source = Source(result, CalibrationError, "expected the file of verify.py --json on a device")
    report = convert(load(source), VerificationReport, source)
    device = _device(report, source)
    problems = [f"{name} of the bundle here was changed" for name in bundle.changed_files()]
    problems += [f"{name} was changed on the device" for name in report.changed_files]
    problems += [
        f"{name} on the device is not part of the bundle, and could be imported"
        for name in report.unlisted_files
        if could_be_imported(name)
    ]
    shipped = {MANIFEST: bundle.sha256, **{m: bundle.files[m] for m in bundle.models.values()}}
    problems += [
        f"{name}: expected sha256 {digest} of the bundle, got {report.sha256.get(name)} from the "
        "device; it ran another bundle"
        for name, digest in shipped.items()
        if report.sha256.get(name) != digest
    ]
    rows = {(row.variant, row.name): row for row in report.references}
    for reference in bundle.references:
        problems += _problems(reference, rows.get((reference.variant, reference.name)))
    if not report.passed and not problems:
        problems.append("the device itself reported a failure")
    on_engine = report.backend != "cpu"
    if not on_engine and NO_ENGINE not in accepted:
        problems.append(
            f"no engine was run, only the model on ONNX Runtime ({report.reason}): run build.sh "
            f"and verify.py on the device, or accept that (--accept {NO_ENGINE})"
        )
    ran = (bundle.engines if on_engine else bundle.models)["whole"]
    if report.sha256.get(ran) is None:
        problems.append(f"the device reported no digest of {ran}, which it ran")
    metadata = read_onnx(bundle.path(bundle.models["whole"])).metadata
    diagnosis = report.diagnosis
    return DeviceCertificate(
        adadm=importlib.metadata.version("adadm-deploy"),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        passed=not problems,
        failures=tuple(problems),
        place=Divergence("see the text", None, diagnosis) if diagnosis else None,
        model=ModelOnDevice(
            file=ran,
            sha256=report.sha256.get(ran),
            bytes=None,
            precision=bundle.precision,
            backend=report.backend,
            description=f"TensorRT {bundle.tensorrt}" if on_engine else "ONNX Runtime, no engine",
            architecture=metadata.architecture,
            upscale=metadata.upscale,
            rgb_range=None,
            io=metadata.io,
            target=bundle.target.name,
            checkpoint_sha256=metadata.checkpoint_sha256,
            source_sha256=bundle.source_sha256,
            companions={name: digest for name, digest in report.sha256.items() if digest},
        ),
        reference=Reference(
            file=relative(bundle.path(MANIFEST), at),
            sha256=bundle.sha256,
            bytes=bundle.path(MANIFEST).stat().st_size,
            description="references of the bundle, computed where it was made",
        ),
        result=relative(result, at),
        result_sha256=sha256_of(result),
        references=report.references,
        latency=report.latency,
        reason=report.reason,
        diagnosis=diagnosis,
        accepted=tuple(sorted(set(accepted))),
        device=device,
        versions=device.versions,
    )


def _device(found: VerificationReport, source: Source) -> DeviceInfo:
    content = found.device
    if found.backend == "trtexec":  # without our runtime it reports little
        versions = {"python": content.get("python")}
        content = {"board": content.get("board"), "os": content.get("system"), "versions": versions}
    return convert(content, DeviceInfo, source)


def _problems(reference: ReferenceCase, row: CaseRow | None) -> list[str]:
    """Reasons why one reference does not pass, by its figures."""
    name = f"{reference.variant} {reference.name}"
    if row is None:
        return [f"{name}: the device did not run it"]
    problems = [f"{name}: {failure}" for failure in row.failures]
    for output, asked_db in reference.psnr_db.items():
        figures = row.outputs.get(output)
        if figures is None or "psnr_db" not in figures:
            if not problems:
                problems.append(f"{name}: {output} was not compared")
            continue
        db = figures["psnr_db"]  # null is equal
        if db is not None and not db >= asked_db and not row.failures:
            problems.append(f"{name}: {output} is {db:.1f} dB, required {asked_db:.1f} dB")
    return problems
