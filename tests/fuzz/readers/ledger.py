"""The report of a lowered model, which its engine's manifest takes over."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adadm.runtime.engines.builder import ledger_beside
from adadm.runtime.json_format import text
from adadm.runtime.models.metadata import QuantizationNote
from adadm.runtime.records import digest_of
from fuzz.mutations import mutate_json, mutate_one, mutate_value
from fuzz.reader import Fault, Files, Reader

_NOTED: QuantizationNote = {
    "precision": "int8",
    "target": "JP6.0",
    "budget_db": 0.02,
    "images_sha256": "5e" * 32,
    "int8": ["body.0.conv1"],
}
_STAGE = {"name": "INT8", "psnr_y_db": 31.25, "lost_db": 0.0125, "factor_block": None}


def _report() -> dict[str, Any]:
    report = {
        "precision": _NOTED["precision"],
        "target": _NOTED["target"],
        "budget_db": _NOTED["budget_db"],
        "calibration": {"images": "24 of 30", "images_sha256": _NOTED["images_sha256"]},
        "sensitivities": [{"name": "body.0.conv1", "lost_db": 0.001, "noise_db": None}],
        "stages": [_STAGE, {**_STAGE, "name": "float32"}],
        "gates": [],
    }
    return {**report, "sha256": digest_of(report)}


def _seeds() -> Mapping[str, Files]:
    return {"report": {"x.int8.json": text(_report()).encode()}}


def _mutate_report(data: bytes, rng: random.Random) -> bytes:
    """The report, in some cases with the digest of what was changed."""
    if rng.random() < 0.7:
        return mutate_json(data, rng)
    changed = mutate_value(json.loads(data), rng)
    try:
        return json.dumps({**changed, "sha256": digest_of(changed)}).encode()
    except (ValueError, TypeError, AttributeError):
        return mutate_json(data, rng)


def _mutate(files: Files, rng: random.Random) -> Files:
    return mutate_one(files, rng, {".json": _mutate_report})


def _read(folder: Path, seed: Files) -> None:
    found = ledger_beside(folder / "x.int8.onnx", _NOTED)
    if found is None:
        return
    text(found)
    content = json.loads((folder / "x.int8.json").read_bytes().decode("utf-8-sig"))
    if found != content or found["sha256"] != digest_of(content):
        raise Fault("a report that was changed is taken over")


READER = Reader(_seeds, _mutate, _read)
