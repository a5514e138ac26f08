"""Certify, inspect, bundle and ship exported and lowered models.

from adadm.deployment import certify, load_baseline, load_candidate

baseline = load_baseline(Path("x2.safetensors"))
candidate = load_candidate(Path("x2.int8.onnx"), baseline, "cpu")
at = Path("x2.certificate.json")
certified = certify(baseline, candidate, images, originals=True, given={}, at=at)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adadm.runtime.public_names import import_on_first_use

if TYPE_CHECKING:
    from adadm.deployment.bundling.make_bundle import make_bundle as make_bundle
    from adadm.deployment.certification.baseline import Baseline as Baseline
    from adadm.deployment.certification.baseline import load_baseline as load_baseline
    from adadm.deployment.certification.candidate import Candidate as Candidate
    from adadm.deployment.certification.candidate import load_candidate as load_candidate
    from adadm.deployment.certification.certificate import Certificate as Certificate
    from adadm.deployment.certification.certificate import read_certificate as read_certificate
    from adadm.deployment.certification.certify import certify as certify
    from adadm.deployment.shipping.options import ShipOptions as ShipOptions
    from adadm.deployment.shipping.run import ShipRun as ShipRun

__all__, __getattr__ = import_on_first_use(__name__, __file__)
