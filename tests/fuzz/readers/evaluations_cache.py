"""The store of measured losses: what is changed is measured again, never believed."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from adadm.calibration.search.evaluations import Evaluations, Loss
from fuzz.mutations import mutate_json, mutate_one
from fuzz.reader import Fault, Files, Reader

_LOSSES = {
    frozenset({"a"}): Loss(0.00123456789, 0.1),
    frozenset({"a", "b"}): Loss(-0.25, 1e-9),
    frozenset({"body.0.conv1", "ä"}): Loss(math.inf, math.inf),
    frozenset[str](): Loss(0.0, 0.0),
}
_NAME = "evaluations-0.json"


def _seeds() -> Mapping[str, Files]:
    seeds = {}
    for count in (1, len(_LOSSES)):
        with tempfile.TemporaryDirectory() as folder:
            evaluations = Evaluations(_LOSSES.__getitem__, Path(folder) / _NAME)
            for names in list(_LOSSES)[:count]:
                evaluations(names)
            seeds[f"{count}-rows"] = {_NAME: (Path(folder) / _NAME).read_bytes()}
    return seeds


def _mutate(files: Files, rng: random.Random) -> Files:
    return mutate_one(files, rng, {".json": mutate_json})


def _read(folder: Path, seed: Files) -> None:
    for run in ("with what was changed", "with what the first one wrote"):
        evaluations = Evaluations(_LOSSES.__getitem__, folder / _NAME)
        for names, loss in _LOSSES.items():
            if evaluations(names) != loss:
                raise Fault(f"{run}: expected {loss}, got {evaluations(names)} of {set(names)}")


READER = Reader(_seeds, _mutate, _read)
