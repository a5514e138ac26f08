"""Refusal of failed results, and acceptance of those that the user names (`--accept`)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import replace

from rich.text import Text

from adadm.calibration.quality.gates import GATES, WORSE_THAN_BICUBIC, GateResult
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.export.proof.drawn_pictures import plain_pictures, plain_size
from adadm.runtime.errors import CalibrationError


def check_gates(results: Iterable[GateResult]) -> None:
    """Refuse a lowered model that fails a gate which is not accepted.

    Raises:
        CalibrationError: the message has figure, limit and remedy of each failed gate.
    """
    failed = [result for result in results if not result.passed and not result.accepted]
    if not failed:
        return
    refusal = "float32 itself is not good enough to be lowered:"
    if any(result.gate in GATES for result in failed):
        refusal = (
            "the lowered model has visible artefacts; calibrate on photographs like those that it "
            "will process, or keep more layers in higher precision:"
        )
    raise CalibrationError(refusal + "".join(f"\n  {result}" for result in failed))


def acceptable(images: CalibrationImages) -> tuple[str, ...]:
    """Names that `adadm quantize` accepts: gates, drawn inputs, photographs."""
    gates = (gate.name for gate in (*GATES, WORSE_THAN_BICUBIC))
    return *gates, *plain_pictures(*plain_size(1)), *images.names


def check_accepted(accepted: Iterable[str], known: Collection[str]) -> None:
    """Refuse to accept what does not exist.

    Raises:
        CalibrationError: a name is not a known one; the message lists them.
    """
    for name in accepted:
        if name not in known:
            raise CalibrationError(f"--accept: {unknown_name(name, known)}")


def unknown_name(name: str, known: Collection[str]) -> str:
    """Message about an unknown name: the nearest known one, and all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown name {name!r}{meant} Known: {', '.join(known)}"


def accept(results: Iterable[GateResult], names: Collection[str]) -> tuple[GateResult, ...]:
    """Mark the failed results that are accepted."""
    return tuple(
        replace(result, accepted=not result.passed and result.gate.name in names)
        for result in results
    )


def verdict(*, passed: bool, accepted: bool) -> Text:
    """Verdict for a table."""
    if passed:
        return Text("passed")
    return Text("accepted") if accepted else Text("FAILED", "bold red")
