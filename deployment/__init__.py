"""Prove, inspect, bundle and ship what was exported and lowered.

from adadm.deployment import certify, load_baseline, load_candidate

baseline = load_baseline(Path("x2.safetensors"))
candidate = load_candidate(Path("x2.int8.onnx"), baseline, "cpu")
at = Path("x2.certificate.json")
certified = certify(baseline, candidate, images, originals=True, given={}, at=at)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adadm.deployment.bundling.make_bundle import make_bundle
    from adadm.deployment.certification.baseline import Baseline, load_baseline
    from adadm.deployment.certification.candidate import Candidate, load_candidate
    from adadm.deployment.certification.certificate import Certificate, read_certificate
    from adadm.deployment.certification.certify import certify
    from adadm.deployment.shipping.run import ShipOptions, ShipRun

__all__ = [
    "Baseline",
    "Candidate",
    "Certificate",
    "ShipOptions",
    "ShipRun",
    "certify",
    "load_baseline",
    "load_candidate",
    "make_bundle",
    "read_certificate",
]
_HOMES = {
    "Baseline": "certification.baseline",
    "Candidate": "certification.candidate",
    "Certificate": "certification.certificate",
    "ShipOptions": "shipping.run",
    "ShipRun": "shipping.run",
    "certify": "certification.certify",
    "load_baseline": "certification.baseline",
    "load_candidate": "certification.candidate",
    "make_bundle": "bundling.make_bundle",
    "read_certificate": "certification.certificate",
}


def __getattr__(name: str) -> Any:
    """Import on first use: each verb has extras of its own."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
