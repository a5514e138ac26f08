"""Files of limits for certificates, against Python's own parser of JSON."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

from adadm.deployment.certification.criteria import CRITERIA, KEYS, Thresholds, read_thresholds
from fuzz.mutations import mutate_json, mutate_one
from fuzz.reader import Fault, Files, Reader


def _seeds() -> Mapping[str, Files]:
    limits = Thresholds.of("int8", {}).limits
    return {
        "all": {"limits.json": json.dumps(dict(limits), indent=2).encode()},
        "one": {"limits.json": b'{"lost_db": 0.05}'},
    }


def _mutate(files: Files, rng: random.Random) -> Files:
    return mutate_one(files, rng, {".json": mutate_json})


def _read(folder: Path, seed: Files) -> None:
    path = folder / "limits.json"
    found = read_thresholds(path)
    expected = json.loads(path.read_bytes().decode("utf-8-sig"))
    if found != {name: float(limit) for name, limit in expected.items()}:
        raise Fault(f"expected {expected}, got {found}")
    if not found.keys() <= set(KEYS.values()):
        raise Fault(f"unknown limits among {set(found)}")
    if any(type(limit) is not float or not math.isfinite(limit) for limit in found.values()):
        raise Fault(f"no finite numbers: {found}")
    for precision in CRITERIA["lost_db"].limits:
        Thresholds.of(precision, found)


READER = Reader(_seeds, _mutate, _read)
