"""Results of a reference case: difference of the outputs, and latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from adadm.runtime.bundles.bundle import ReferenceCase
from adadm.runtime.engines.engine_session import TensorRTSession
from adadm.runtime.errors import ParityError
from adadm.runtime.images.compare import Comparison, compare
from adadm.runtime.json_format import key
from adadm.runtime.sessions.session import FloatArray, Session

_BORDER_PX = 4  # of lr, as in the check at export


@dataclass(frozen=True)
class Times:
    """Statistics of the times of runs, ms."""

    count: int
    mean: float
    median: float
    p90: float
    p99: float
    min: float
    max: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Times:
        """Summarize one or more times."""
        median, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
        mean = float(np.mean(times_ms))
        return cls(len(times_ms), mean, median, p90, p99, min(times_ms), max(times_ms))


@dataclass(frozen=True)
class Latency:
    """Latency for one input.

    Attributes:
        end_to_end_ms: times with the copies to the device and back.
        kernels_ms: times without the copies; only for an engine.
    """

    reference: str
    end_to_end_ms: Times
    kernels_ms: Times | None


class _Asked(TypedDict):
    asked_psnr_db: float


class OutputRow(_Asked, total=False):
    """Required PSNR of an output, and the fields of its `Comparison`, if any.

    PSNR is null if the output equals the reference. Without our runtime there are `psnr_db` and
    `largest_error` alone.
    """

    name: str
    shape: tuple[int, ...]
    largest_error: float
    worst_at: tuple[int, ...]
    border_px: int
    border_error: float
    interior_error: float | None
    peak: float
    psnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """Row of a reference in a report file.

    Attributes:
        outputs: figures of each output that was compared.
    """

    name: str
    variant: str = key("form")
    passed: bool
    failures: tuple[str, ...]
    outputs: Mapping[str, OutputRow]


@dataclass(frozen=True)
class CaseResult:
    """Result of a reference case.

    Attributes:
        comparisons: comparison by output; None if it is impossible, such as with NaN; empty if the
            model did not run.
        failures: reasons of the failure; empty if it passed.
    """

    reference: ReferenceCase
    comparisons: dict[str, Comparison | None]
    failures: tuple[str, ...]
    latency: Latency | None = None

    @property
    def row(self) -> CaseRow:
        """Row for the report file."""
        case = self.reference
        outputs: dict[str, Any] = {
            name: {"asked_psnr_db": case.psnr_db[name], **(vars(comparison) if comparison else {})}
            for name, comparison in self.comparisons.items()
        }
        return CaseRow(
            name=case.name,
            variant=case.variant,
            passed=not self.failures,
            failures=self.failures,
            outputs=outputs,
        )


def latency_of(
    session: Session, name: str, feed: Mapping[str, FloatArray], seconds: float
) -> Latency:
    """Measure a session that has run the feed before."""
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while not times_ms or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(feed)
        times_ms.append((time.perf_counter() - start) * 1e3)
    kernels_ms = None
    if isinstance(session, TensorRTSession):
        kernels_ms = Times.of(session.measure(feed, seconds))
    return Latency(name, Times.of(times_ms), kernels_ms)


def compare_case(
    reference: ReferenceCase,
    found: Mapping[str, FloatArray],
    expected: Mapping[str, FloatArray],
) -> tuple[dict[str, Comparison | None], list[str]]:
    """Compare each required output with the reference; with a list of failures."""
    comparisons: dict[str, Comparison | None] = dict.fromkeys(reference.psnr_db)
    failures = []
    if found.keys() != reference.psnr_db.keys():
        failures.append(f"expected outputs {sorted(reference.psnr_db)}, got {sorted(found)}")
    for name, asked_db in reference.psnr_db.items():
        if name not in found:
            continue
        try:
            comparison = _compare(name, found[name], expected[name], expected["lr"])
        except ParityError as error:
            failures.append(str(error))
            continue
        comparisons[name] = comparison
        # Any error fails if the peak is 0, since it has no PSNR.
        if comparison.largest_error and not (comparison.peak and comparison.psnr_db >= asked_db):
            failures.append(f"{comparison}; required {asked_db:.1f} dB")
    return comparisons, failures


def _compare(name: str, found: FloatArray, expected: FloatArray, lr: FloatArray) -> Comparison:
    """Compare arrays, with a border for images of either layout."""
    if expected.ndim != 4:
        return compare(name, found, expected, 0)
    upscale = expected.shape[2] // lr.shape[2]  # H or W
    if expected.dtype == np.uint8 and found.ndim == 4:  # (N, H, W, 3)
        found, expected = (array.transpose(0, 3, 1, 2) for array in (found, expected))
    return compare(name, found, expected, _BORDER_PX * upscale)
