"""Verify that an engine or a model reproduces on this device the outputs in its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adadm.runtime.backends import open_session
from adadm.runtime.bundles.bundle import MANIFEST, Bundle, ReferenceCase, could_be_imported
from adadm.runtime.bundles.case_results import (
    CaseResult,
    CaseRow,
    Latency,
    compare_case,
    latency_of,
)
from adadm.runtime.bundles.diagnosis import diagnose
from adadm.runtime.checks.device_info import device_info
from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.manifest import read_manifest
from adadm.runtime.engines.tensorrt_api import load_tensorrt
from adadm.runtime.errors import AdadmError, EngineError, MissingDependencyError, SessionError
from adadm.runtime.json_format import as_json
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.sessions.session import Session

Backend = Literal["engine", "cpu"]

_FAILURES = (AdadmError, OSError, ValueError)  # the last of damaged metadata


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """Report of `verify.py --json`; without our runtime, some of the fields.

    Attributes:
        passed: True if all files are as shipped, no other one could be imported, and every output
            reaches its required PSNR.
        backend, reason: backend that was run, and the reason; `trtexec` without our runtime.
        changed_files: names of files that differ from the shipped ones.
        unlisted_files: names of files that neither the manifest nor a script of the bundle accounts
            for.
        diagnosis: first block that differs; None if no whole image is wrong.
        latency: latency of the first reference of a whole image; None if it did not run.
        device: a `DeviceInfo`; without our runtime `board`, `system` and `python`.
        sha256: digests of manifest, models and engines on this device; None for missing files.
    """

    format: Literal[1] = 1
    passed: bool
    adadm: str | None = None
    target: str
    precision: str
    tensorrt: str | None = None
    backend: str
    reason: str | None = None
    changed_files: tuple[str, ...]
    unlisted_files: tuple[str, ...] = ()
    references: tuple[CaseRow, ...]
    diagnosis: str | None = None
    latency: Latency | None = None
    device: Mapping[str, Any]
    sha256: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All results of `verify`: the report, its bundle and the results of the cases."""

    report: VerificationReport
    bundle: Bundle
    outcomes: tuple[CaseResult, ...]


def verify(
    bundle: Bundle,
    backend: Backend | Literal["auto"],
    seconds: float,
    *,
    trust: bool = False,
    progress: Progress = SILENT,
) -> Verification:
    """Run every reference of a bundle, compare, and measure.

    Failures are recorded; the other cases still run.

    Args:
        backend: `engine`; `cpu` for ONNX Runtime on the shipped models; or `auto`: the engine if
            it was built and TensorRT and a GPU work, else `cpu`.
        seconds: measuring time; at least one run is measured.
        trust: run an engine even without a manifest. An engine can run any code.
    """
    progress.phase("checking the files")
    changed, unlisted = bundle.changed_files(), bundle.unlisted_files()
    chosen, reason = _choose(bundle) if backend == "auto" else (backend, "selected explicitly")
    outcomes: list[CaseResult] = []
    for variant in dict.fromkeys(reference.variant for reference in bundle.references):
        references = [case for case in bundle.references if case.variant == variant]
        try:
            session = open_session(_path(bundle, variant, chosen), backend=chosen, trust=trust)
        except _FAILURES as error:
            outcomes += [CaseResult(case, {}, (str(error),)) for case in references]
            continue
        with session:
            for index, reference in enumerate(references):
                progress.phase(f"running {reference.name}, {variant}")
                timed = variant == "whole" and index == 0
                outcomes.append(_outcome(session, bundle, reference, seconds if timed else None))
    device = device_info()  # at once, as clocks drop when idle
    wrong = [o.reference for o in outcomes if o.failures and o.comparisons]
    whole = next((reference for reference in wrong if reference.variant == "whole"), None)
    named = (MANIFEST, *bundle.models.values(), *bundle.engines.values())
    report = VerificationReport(
        passed=not changed
        and not any(map(could_be_imported, unlisted))
        and not any(outcome.failures for outcome in outcomes),
        adadm=bundle.adadm,
        target=bundle.target_name,
        precision=bundle.precision,
        tensorrt=bundle.tensorrt,
        backend=chosen,
        reason=reason,
        changed_files=tuple(changed),
        unlisted_files=tuple(unlisted),
        references=tuple(outcome.row for outcome in outcomes),
        diagnosis=diagnose(bundle, whole, chosen, progress=progress) if whole else None,
        latency=next((outcome.latency for outcome in outcomes if outcome.latency), None),
        device=as_json(device),
        sha256={name: bundle.digest(name) for name in named},
    )
    return Verification(report=report, bundle=bundle, outcomes=tuple(outcomes))


def _choose(bundle: Bundle) -> tuple[Backend, str]:
    """Choose the backend for `auto`; with the reason."""
    engine = bundle.path(bundle.engines["whole"])
    if not engine.is_file():
        return "cpu", f"{engine} is missing; build.sh makes it"
    try:
        load_tensorrt(read_manifest(engine).flavour)
        gpu = cuda_runtime.compute_capability()
        return "engine", f"the engine, TensorRT and a GPU of {gpu} are here"
    except (MissingDependencyError, SessionError) as error:
        return "cpu", f"the engine cannot run here: {error}"
    except EngineError as error:  # a broken engine must not pass by the models
        return "engine", f"the engine is here, but {error}"


def _path(bundle: Bundle, variant: str, backend: Backend) -> Path:
    return bundle.path((bundle.engines if backend == "engine" else bundle.models)[variant])


def _outcome(
    session: Session, bundle: Bundle, reference: ReferenceCase, seconds: float | None
) -> CaseResult:
    """Run one reference; measure it if `seconds` is given."""
    try:
        expected = bundle.arrays(reference)
        feed = {name: expected[name] for name in reference.inputs}
        outputs = session.run(feed)
        latency = None if seconds is None else latency_of(session, reference.name, feed, seconds)
    except _FAILURES as error:
        return CaseResult(reference, {}, (str(error),))
    comparisons, failures = compare_case(reference, outputs, expected)
    return CaseResult(reference, comparisons, tuple(failures), latency)
