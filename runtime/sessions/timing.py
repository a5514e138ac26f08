"""Which backend is the faster for a model on this machine: timed once, and kept.

The order of backends differs with the network, its precision and the instructions of the processor,
so no fixed order is right.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adadm.runtime.files import cache_folder
from adadm.runtime.host import cpu_info, installed_version
from adadm.runtime.sessions.session import FloatArray, Session, Timing

_SIDES_PX = (48, 160)
"""Sides of the image: the second where the first takes no longer than `_SHORT_S`."""
_SHORT_S = 0.1
_ENOUGH_S, _MOST_RUNS = 0.4, 5
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino")


def timing_file(content: bytes, threads: int) -> Path:
    """Where the timing of a model is kept, for this processor, its cores and these backends.

    Args:
        content: the serialized model.
        threads: CPU threads, as for `open_session`.
    """
    cpu = cpu_info()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpu.cores
    about = (cpu, cores, threads, *map(installed_version, _PACKAGES))
    digest = hashlib.sha256(repr(about).encode())
    digest.update(content)
    return cache_folder() / "backends" / f"{digest.hexdigest()[:32]}.json"


def time_backends(sessions: Mapping[str, Session]) -> Timing | None:
    """Time sessions of one model in turn; None if it takes no single image.

    Raises:
        SessionError: a backend fails.
    """
    first = next(iter(sessions.values()))
    if [spec.name for spec in first.inputs] != ["lr"] or not first.sizes:
        return None
    for side in _SIDES_PX:
        height, width = first.sizes[0].nearest((side, side))
        lr = first.inputs[0]
        shape = (1, height, width, 3) if lr.dtype == np.uint8 else (1, 3, height, width)
        span = 255.0 if lr.dtype == np.uint8 else first.metadata.rgb_range or 1.0
        image = (span * np.random.default_rng(0).random(shape)).astype(lr.dtype)
        seconds = _times(sessions, {"lr": image})
        if min(seconds.values()) > _SHORT_S or first.sizes[0].is_fixed:
            break
    return Timing(height, width, seconds)


def _times(sessions: Mapping[str, Session], feed: Mapping[str, FloatArray]) -> dict[str, float]:
    """Seconds of the fastest run of each session; the first, which prepares it, does not count."""
    fastest = dict.fromkeys(sessions, float("inf"))
    for session in sessions.values():
        session.run_shared(feed)
    deadline = time.perf_counter() + _ENOUGH_S
    for _ in range(_MOST_RUNS):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run_shared(feed)
            fastest[name] = min(fastest[name], time.perf_counter() - start)
        if time.perf_counter() > deadline:
            break
    return fastest
