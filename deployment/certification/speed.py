"""Speed of a model and its reference on this machine, and memory of the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from adadm.deployment.certification.baseline import Baseline
from adadm.deployment.certification.candidate import Candidate
from adadm.runtime.bundles.case_results import Times
from adadm.runtime.engines.manifest import read_manifest
from adadm.runtime.images.arrays import Batch
from adadm.runtime.upscaling.memory import measure_memory
from adadm.runtime.upscaling.variants import CPU_BACKENDS

_ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """Speed of the reference or of the model.

    Attributes:
        name: reference or model, and the software that runs it.
        lr_px: W and H of the input.
        megapixels_per_s: megapixels of the output a second, at the median.
        peak_bytes: peak memory of a run; None if unknown.
    """

    name: str
    lr_px: tuple[int, int]
    median_ms: float
    p90_ms: float
    megapixels_per_s: float
    peak_bytes: int | None


def measure_speed(
    reference: Baseline, model: Candidate, lr: Batch, seconds: float
) -> tuple[Speed, ...]:
    """Run both in turns on one input, after a run that does not count.

    Args:
        seconds: duration of all runs; there are at least three of each.
    """
    with model.session() as session:
        feed = model.feed(lr)
        runs: dict[str, Callable[[], object]] = {
            f"reference, {reference.description}": lambda: reference.run(lr),
            f"this model, {session.backend}": lambda: session.run(feed),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        end = time.perf_counter() + seconds
        done = 0
        while done < _ROUNDS or time.perf_counter() < end:
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times_ms[name].append((time.perf_counter() - start) * 1e3)
            done += 1
    height, width = lr.shape[2:]
    kilopixels = height * width * reference.metadata.upscale**2 / 1e3
    peaks = (None, _peak_bytes(model, lr))
    return tuple(
        Speed(name, (width, height), times.median, times.p90, kilopixels / times.median, peak_bytes)
        for name, times, peak_bytes in zip(
            runs, map(Times.of, times_ms.values()), peaks, strict=True
        )
    )


def _peak_bytes(model: Candidate, lr: Batch) -> int | None:
    """Peak memory: planned by an engine's builder, or measured on a CPU in a separate process."""
    if model.backend == "engine":
        if not model.companions:  # the engine has no manifest
            return None
        planned = read_manifest(model.path).activation_bytes
        return max(planned) if planned else None
    if model.backend not in CPU_BACKENDS or model.metadata.is_uint8:
        return None
    return measure_memory(model.path, model.backend, [(lr.shape[2], lr.shape[3])]).fixed_bytes
