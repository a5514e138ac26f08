"""The file of a certificate: what it is bound to, where that lies, and its own digest.

The digest finds damage and careless edits. It is no signature: who changes a figure and mends the
digest is found when the figures are measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adadm.deployment.certification.baseline import Baseline
from adadm.deployment.certification.candidate import Candidate
from adadm.deployment.certification.report.crops import Crop
from adadm.deployment.certification.report.page import write_report
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import sha256_of, written_whole
from adadm.runtime.json_format import rounded

__all__ = [
    "bind_to_files",
    "digest_of",
    "page_path",
    "read_certificate",
    "relative",
    "write_certificate",
]

_FORMAT = 1
_KINDS = ("model", "device")


def bind_to_files(
    content: Mapping[str, Any],
    path: Path,
    reference: Baseline,
    model: Candidate,
    images: Sequence[Path],
) -> dict[str, Any]:
    """A certificate with the places of all that it is bound to, relative to its own."""
    found = dict(content)
    found["model"] = {
        **content["model"],
        "file": relative(model.path, path),
        "companions": {relative(p, path): sha256_of(p) for p in model.companions},
    }
    found["reference"] = {**content["reference"], "file": relative(reference.path, path)}
    found["images"] = {**content["images"], "paths": [relative(p, path) for p in images]}
    return found


def write_certificate(
    content: Mapping[str, Any], crops: Sequence[Crop], path: Path
) -> dict[str, Any]:
    """Write a certificate and its report: each whole, and no certificate without its report.

    Returns:
        What the certificate has, its digest included.
    """
    ready = rounded({"format": _FORMAT, **content})
    ready["sha256"] = digest_of(ready)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(ready, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_report({**ready, "file": path.name}, crops, page_path(path))
    written: dict[str, Any] = ready
    return written


def page_path(path: Path) -> Path:
    """Where the report of a certificate is."""
    return path.with_suffix(".html")


def read_certificate(path: Path) -> dict[str, Any]:
    """Read a certificate, whatever its digest.

    Raises:
        CalibrationError: it is no certificate of this format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{path}: cannot be read as JSON ({error})") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != _FORMAT or content.get("kind") not in _KINDS:
        raise CalibrationError(
            f"{path} is no certificate of format {_FORMAT}; adadm validate writes one"
        )
    certificate: dict[str, Any] = content
    return certificate


def digest_of(content: Mapping[str, Any]) -> str:
    """Of all but the digest itself."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def relative(path: Path, certificate: Path) -> str:
    """How a certificate names a file."""
    return Path(os.path.relpath(path.resolve(), certificate.resolve().parent)).as_posix()
