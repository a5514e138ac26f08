"""Engines with their manifests, damaged and forged: no plan is handed on but what was built."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from adadm.runtime.backends import open_session
from adadm.runtime.engines.manifest import (
    Manifest,
    check_runs_here,
    is_up_to_date,
    manifest_path,
    read_engine,
    write_engine,
)
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import AdadmError
from adadm.runtime.json_format import as_json
from fuzz.mutations import mutate_bytes, mutate_json, mutate_one, mutate_value
from fuzz.reader import Fault, Files, Reader, read_files

_ENGINE = "x2.engine"
_PLAN = b"ftrt" + random.Random(7).randbytes(900)


def _manifest() -> Manifest:
    sizes = Profile((1, 3, 48, 48), (1, 3, 64, 64), (1, 3, 80, 80))
    return Manifest(
        engine_sha256=hashlib.sha256(_PLAN).hexdigest(),
        engine_bytes=len(_PLAN),
        model="x2.onnx",
        model_sha256="ab" * 32,
        calibration_sha256=None,
        target="tensorrt10",
        precision="fp16",
        flavour="tensorrt",
        tensorrt="10.3.0.30",
        compute_capabilities=("SM87",),
        profiles=({"lr": sizes},),
        flags={"workspace_bytes": 1 << 28},
        activation_bytes=(1234,),
        metadata={"adadm.upscale": "2"},
        ledger=None,
    )


def _seeds() -> Mapping[str, Files]:
    with tempfile.TemporaryDirectory() as name:
        write_engine(Path(name) / _ENGINE, _PLAN, _manifest())
        return {"engine": read_files(Path(name))}


def _mutate(files: Files, rng: random.Random) -> Files:
    if rng.random() < 0.5:
        return mutate_one(files, rng, {".json": mutate_json, ".engine": mutate_bytes})
    plan = mutate_bytes(files[_ENGINE], rng) if rng.random() < 0.3 else files[_ENGINE]
    content = json.loads(files[f"{_ENGINE}.json"])
    if rng.random() < 0.8:
        content = mutate_value(content, rng)
    return {_ENGINE: plan, f"{_ENGINE}.json": _forged(content, plan)}


def _forged(content: object, plan: bytes) -> bytes:
    """A manifest with the digests of a plan and of itself, as far as it has the form of one."""
    if isinstance(content, dict):
        content |= {"engine_sha256": hashlib.sha256(plan).hexdigest(), "engine_bytes": len(plan)}
        rest = {name: value for name, value in content.items() if name != "sha256"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps(content).encode()


def _read(folder: Path, seed: Files) -> None:
    engine = folder / _ENGINE
    is_up_to_date(engine, _manifest().key)
    plan, manifest = read_engine(engine)
    assert manifest is not None
    content = json.loads(manifest_path(engine).read_bytes().decode("utf-8-sig"))
    if as_json(manifest) != content:
        raise Fault(f"expected {content}, got {as_json(manifest)}")
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    if content["sha256"] != hashlib.sha256(text.encode()).hexdigest():
        raise Fault("the manifest has another digest")
    if content["engine_sha256"] != hashlib.sha256(plan).hexdigest():
        raise Fault("the plan has another digest")
    with suppress(AdadmError):  # there is no such GPU
        open_session(engine, backend="engine").close()
    check_runs_here(manifest, "tensorrt", "10.3.0.30", "SM87")


READER = Reader(_seeds, _mutate, _read)
