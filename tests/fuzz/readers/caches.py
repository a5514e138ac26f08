"""Caches of timings and of kernels, whose content only TensorRT can judge: it gets it unchanged."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from adadm.runtime.files import read_cache, write_cache
from fuzz.mutations import mutate_bytes
from fuzz.reader import Fault, Files, Reader


def _seeds() -> Mapping[str, Files]:
    content = random.Random(0).randbytes(3000)
    return {"timing": {"cache": content}, "empty": {"cache": b""}}


def _mutate(files: Files, rng: random.Random) -> Files:
    return {"cache": mutate_bytes(files["cache"], rng)}


def _read(folder: Path, seed: Files) -> None:
    said: list[str] = []
    path = folder / "cache"
    content = path.read_bytes()
    found = read_cache(path, "timing", said.append)
    write_cache(path, found, "timing", said.append)
    if found != content or path.read_bytes() != content or said:
        raise Fault(f"the cache changed: {said}")


READER = Reader(_seeds, _mutate, _read)
