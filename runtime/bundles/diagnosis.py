"""Find the first block where a whole image goes wrong, by its modulation factor.

A factor follows from the standard deviation of the input of its block. So it reveals any earlier
difference that changes the deviation, but no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np

from adadm.runtime.backends import open_session
from adadm.runtime.bundles.bundle import Bundle, ReferenceCase
from adadm.runtime.bundles.case_results import compare_case
from adadm.runtime.engines.manifest import read_manifest, write_engine
from adadm.runtime.engines.tensorrt_api import Settings, build_engine
from adadm.runtime.engines.weak_typing import WeakTyping
from adadm.runtime.errors import AdadmError, EngineError
from adadm.runtime.leftovers import temporary_folder
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.sessions.session import FloatArray, Session


def diagnose(
    bundle: Bundle,
    reference: ReferenceCase,
    backend: Literal["engine", "cpu"],
    *,
    progress: Progress = SILENT,
) -> str:
    """Run the model again with its factors as outputs, and compare them in order.

    Args:
        reference: case of a whole image that failed.
        backend: backend on which it failed; for `engine`, another engine is built in a temporary
            folder.

    Returns:
        The finding, or the reason why there is none.
    """
    if bundle.factors_patch is None:
        return "not localized: the model has no modulators"
    once_more = "again with the factors as outputs"
    if backend == "engine":
        progress.phase(f"building the engine {once_more}, which takes minutes")
    else:
        progress.phase(f"running the model {once_more}")
    try:
        with _session_with_factors(bundle, bundle.factors_patch, backend, progress) as session:
            names = sorted(
                (spec.name for spec in session.outputs if re.fullmatch(r"factor_\d+", spec.name)),
                key=lambda name: int(name.removeprefix("factor_")),
            )
            expected = bundle.arrays(reference, names)
            found = session.run({name: expected[name] for name in reference.inputs})
        outputs = {name: array for name, array in found.items() if name not in names}
        if not compare_case(reference, outputs, expected)[1]:
            return (
                "the same model with the factors as outputs agrees with the reference: the "
                "difference comes from the build of this engine or session"
            )
        return _first_difference(names, found, expected, bundle)
    except (AdadmError, OSError, ValueError) as error:  # the last of damaged metadata
        return f"not localized: {error}"


def _first_difference(
    names: list[str],
    found: Mapping[str, FloatArray],
    expected: Mapping[str, FloatArray],
    bundle: Bundle,
) -> str:
    allowed, largest = bundle.factor_tolerance, _largest(bundle, names)
    for index, name in enumerate(names):
        here, elsewhere = (side[name].astype(np.float64).ravel() for side in (found, expected))
        if here.shape != elsewhere.shape:
            raise EngineError(
                f"{name}: expected {expected[name].shape} as in the reference, got "
                f"{found[name].shape}; make the bundle again with `adadm bundle`"
            )
        errors = np.abs(here - elsewhere)
        worst = int(errors.argmax())  # of a NaN, if there is one
        if errors[worst] <= allowed * largest[name]:
            continue
        off = f"{errors[worst] / largest[name]:.2%} off" if largest[name] else "off"
        before = f"in block {index - 1}, or between the two" if index else "before the first block"
        return (
            f"block {index}: factor {here[worst]:.4g}, expected {elsewhere[worst]:.4g} ({off}, "
            f"limit {allowed:.2%}). It is the first wrong factor, and follows from the input of "
            f"its block: the difference arises {before}"
        )
    return (
        f"all {len(names)} factors agree to {allowed:.2%}: the difference is after the last block, "
        "or too small to move a factor"
    )


def _largest(bundle: Bundle, names: list[str]) -> dict[str, float]:
    """Largest factor of each block over the references, to which errors are relative."""
    references = [r for r in bundle.references if r.variant == "whole"]
    arrays = [bundle.arrays(reference, names) for reference in references]
    return {
        name: max(float(np.abs(arrays_of_case[name]).max()) for arrays_of_case in arrays)
        for name in names
    }


@contextmanager
def _session_with_factors(
    bundle: Bundle, patch: str, backend: Literal["engine", "cpu"], progress: Progress
) -> Iterator[Session]:
    model = bundle.path(bundle.models["whole"]).read_bytes() + bundle.path(patch).read_bytes()
    if backend == "cpu":
        with open_session(model, backend="cpu") as session:
            yield session
        return
    manifest = read_manifest(bundle.path(bundle.engines["whole"]))
    rtx = manifest.flavour == "rtx"
    settings = Settings(
        compute_capabilities=manifest.compute_capabilities if rtx else (),
        weak_typing=WeakTyping.of_flags(manifest.flags),
        workspace_bytes=manifest.flags.get("workspace_bytes"),
    )
    plan = build_engine(
        model, manifest.profiles, manifest.flavour, settings=settings, progress=progress
    ).plan
    of_this_plan = replace(
        manifest,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        model_sha256=hashlib.sha256(model).hexdigest(),
        activation_bytes=None,
    )
    with temporary_folder() as folder:
        engine = folder / "factors.engine"
        write_engine(engine, plan, of_this_plan)
        with open_session(engine, backend="engine") as session:
            yield session
