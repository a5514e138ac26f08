"""From what `verify.py --json` wrote on a device to that device's certificate."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adadm.runtime.bundles.bundle import MANIFEST, Bundle, ReferenceCase
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import sha256_of
from adadm.runtime.models.onnx_reader import read_onnx

__all__ = ["certify_on_device"]

_RESULT_FORMAT = 1


def certify_on_device(result: Path, folder: Path) -> dict[str, Any]:
    """Hold the figures of a device to what the bundle asks for.

    The verdict is found here, from the figures and the digests. That the device itself passed is
    asked for besides.

    Args:
        result: what `verify.py --json` wrote there.
        folder: the bundle that was copied to the device, as it was made.

    Returns:
        The content of a certificate, for `certificate.write_certificate`.

    Raises:
        CalibrationError: `result` is no such file.
        EngineError: the folder is no bundle.
    """
    bundle = Bundle.open(folder)
    found = _read(result)
    digests: Mapping[str, str | None] = found["sha256"]
    problems = [f"{name} of the bundle here was changed" for name in bundle.changed_files()]
    problems += [f"{name} was changed on the device" for name in found["changed_files"]]
    shipped = {MANIFEST: bundle.sha256, **{m: bundle.files[m] for m in bundle.models.values()}}
    problems += [
        f"{name} of the device has sha256 {digests.get(name)}, the bundle's is {digest}: it ran "
        "another bundle"
        for name, digest in shipped.items()
        if digests.get(name) != digest
    ]
    rows = {(row["form"], row["name"]): row for row in found["references"]}
    for reference in bundle.references:
        problems += _problems(reference, rows.get((reference.variant, reference.name)))
    if not found["passed"] and not problems:
        problems.append("the device itself says that it failed")
    engine = bundle.engines["whole"]
    on_engine = found["backend"] != "cpu"
    ran = engine if on_engine else bundle.models["whole"]
    if digests.get(ran) is None:
        problems.append(f"the device names no digest of {ran}, which it ran")
    metadata = read_onnx(bundle.path(bundle.models["whole"])).metadata
    device = found["device"]
    diagnosis = found.get("diagnosis")
    return {
        "kind": "device",
        "adadm": importlib.metadata.version("adadm-deploy"),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "passed": not problems,
        "failures": problems,
        "place": {"where": "see the text", "block": None, "text": diagnosis} if diagnosis else None,
        "model": {
            "file": ran,
            "sha256": digests.get(ran),
            "bytes": None,
            "precision": bundle.precision,
            "backend": found["backend"],
            "description": f"TensorRT {bundle.tensorrt}" if on_engine else "ONNX Runtime",
            "architecture": metadata.architecture,
            "upscale": metadata.upscale,
            "rgb_range": None,
            "io": metadata.io,
            "target": bundle.target.name,
            "checkpoint_sha256": metadata.checkpoint_sha256,
            "source_sha256": bundle.source_sha256,
            "companions": {name: digest for name, digest in digests.items() if digest},
        },
        "reference": {
            "sha256": bundle.sha256,
            "bytes": bundle.path(MANIFEST).stat().st_size,
            "description": "the references of the bundle, computed where it was made",
        },
        "result_sha256": sha256_of(result),
        "references": found["references"],
        "latency": found.get("latency"),
        "reason": found.get("reason"),
        "diagnosis": diagnosis,
        "device": device,
        "versions": device.get("versions") or {},
    }


def _read(path: Path) -> dict[str, Any]:
    expected = "expected what verify.py --json wrote on a device"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: cannot be read as JSON ({error}); {expected}") from error
    types = {
        "passed": bool,
        "backend": str,
        "changed_files": list,
        "references": list,
        "device": dict,
        "sha256": dict,
    }
    if not isinstance(found, dict) or found.get("format") != _RESULT_FORMAT:
        raise CalibrationError(f"{path} is not of format {_RESULT_FORMAT}; {expected}")
    wrong = [name for name, kind in types.items() if not isinstance(found.get(name), kind)]
    rows = [] if "references" in wrong else found["references"]
    for row in rows:
        if not isinstance(row, dict) or not {"form", "name", "outputs", "failures"} <= row.keys():
            wrong.append("references")
            break
    if wrong:
        raise CalibrationError(f"{path}: {', '.join(wrong)} missing or damaged; {expected}")
    return found


def _problems(reference: ReferenceCase, row: Mapping[str, Any] | None) -> list[str]:
    """Why one reference does not pass, by its figures."""
    name = f"{reference.variant} {reference.name}"
    if row is None:
        return [f"{name}: the device did not run it"]
    problems = [f"{name}: {failure}" for failure in row["failures"]]
    for output, asked_db in reference.psnr_db.items():
        figures = row["outputs"].get(output, {})
        if "psnr_db" not in figures:
            if not problems:
                problems.append(f"{name}: {output} was not compared")
            continue
        db = figures["psnr_db"]  # null is equal
        if db is not None and not db >= asked_db and not row["failures"]:
            problems.append(f"{name}: {output} is {db:.1f} dB, asked is {asked_db:.1f} dB")
    return problems
