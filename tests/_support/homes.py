"""What a verb may leave in a home."""

from __future__ import annotations

from pathlib import Path

_CACHES = {".cache", ".cache/adadm", ".cache/matplotlib", ".config", ".config/matplotlib"}


def strangers_in(home: Path) -> list[str]:
    """Names in a home, of two levels, that no verb may make."""
    found = {path.relative_to(home).as_posix() for path in (*home.glob("*"), *home.glob("*/*"))}
    return sorted(found - _CACHES)
