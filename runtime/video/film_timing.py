"""Times of the frames of a film: whether all came, and whether they came at a constant rate."""

from __future__ import annotations

_TOLERANCE_MS = 1.5  # Matroska rounds to 1 ms
_MOSTLY, _NEARLY_ALL = 0.8, 0.95
_SHARE_LOST = 0.01


class FilmTiming:
    """Counts frames and their distances.

    Args:
        expected: frames by the header; 0 if unknown.
        rate: frames per second by the header; 0 if unknown.
        is_exact: True if `expected` is no estimate from the duration.
    """

    def __init__(self, expected: float, rate: float, *, is_exact: bool) -> None:
        self._expected, self._rate, self._is_exact = expected, rate, is_exact
        self.count = 0
        self._regular = 0
        self._shortest_ms, self._longest_ms, self._last_ms = float("inf"), 0.0, 0.0
        self._has_ended = False

    def see(self, time_ms: float) -> None:
        """Take the time of the next frame."""
        if self.count:
            distance = time_ms - self._last_ms
            self._shortest_ms = min(self._shortest_ms, distance)
            self._longest_ms = max(self._longest_ms, distance)
            self._regular += abs(distance - self._distance_ms) <= _TOLERANCE_MS
        self.count, self._last_ms = self.count + 1, time_ms

    def end(self) -> None:
        """Say that no more frames came."""
        self._has_ended = True

    @property
    def fault(self) -> str:
        """What is missing of a film that was read to its end; empty if nothing is."""
        if not self._has_ended or self._expected < 2 or self._rate <= 0:
            return ""
        lost = self._expected - self.count > max(1.0, _SHARE_LOST * self._expected)
        duration_ms = 1e3 * self._expected / self._rate
        ended_ms = self._last_ms + self._longest_ms
        early = ended_ms < (1 - 2 * _SHARE_LOST) * duration_ms - 2 * self._longest_ms
        if (lost and (self._is_exact or self._share >= _MOSTLY)) or (early and lost):
            return (
                f"expected {self._expected:.0f} frames by its header, got {self.count}: it is "
                "damaged or cut, or hides frames"
            )
        return ""

    @property
    def warning(self) -> str:
        """What a constant rate changes; empty if nothing."""
        if self.count < 3 or self._rate <= 0 or self._share >= _NEARLY_ALL:
            return ""
        return (
            f"its frames are {self._shortest_ms:.0f} to {self._longest_ms:.0f} ms apart, those of "
            f"the result {self._distance_ms:.0f} ms: {1e-3 * self._last_ms:.2f} s become "
            f"{1e-3 * self._distance_ms * (self.count - 1):.2f} s"
        )

    @property
    def _distance_ms(self) -> float:
        return 1e3 / self._rate if self._rate > 0 else 0.0

    @property
    def _share(self) -> float:
        return self._regular / max(1, self.count - 1)
