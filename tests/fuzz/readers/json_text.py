"""The strict reader of JSON, against Python's own parser."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adadm.runtime.errors import AdadmError
from adadm.runtime.json_format import Source, load
from fuzz.mutations import mutate_json, mutate_one
from fuzz.reader import Fault, Files, Reader

_VALUE = {
    "format": 1,
    "names": ["a", "b", "\u00e9"],
    "sizes": {"lr": [1, 3, 48, 64], "sr": [1, 3, 96, 128]},
    "psnr_db": 37.25,
    "quantization": None,
    "passed": True,
    "deep": [[[[{"x": [0, -1, 1e-9]}]]]],
}


def _seeds() -> Mapping[str, Files]:
    return {
        "compact": {"value.json": json.dumps(_VALUE).encode()},
        "indented": {"value.json": json.dumps(_VALUE, indent=2).encode()},
    }


def _mutate(files: Files, rng: random.Random) -> Files:
    return mutate_one(files, rng, {".json": mutate_json})


def _read(folder: Path, seed: Files) -> None:
    path = folder / "value.json"
    value = load(Source(path, AdadmError))
    if repr(value) != repr(_expected(path)):  # tells 1, 1.0 and True apart
        raise Fault(f"expected {_expected(path)!r}, got {value!r}")


def _expected(path: Path) -> Any:
    return json.loads(path.read_bytes().decode("utf-8-sig"))


READER = Reader(_seeds, _mutate, _read)
