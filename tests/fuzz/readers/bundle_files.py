"""Every file of a bundle: a change is named, and never passes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path

from adadm.runtime.bundles.bundle import MANIFEST, Bundle, could_be_imported
from adadm.runtime.bundles.verification import verify
from adadm.runtime.json_format import as_json
from fuzz.mutations import mutate_bytes, mutate_json, mutate_one, mutate_protobuf, mutate_zip
from fuzz.reader import Fault, Files, Reader, read_files
from fuzz.tiny_bundle import tiny_bundle

_EXTRA = ("json.py", "numpy/__init__.py", "note.txt", "lib-x/a.py", "model.engine", "a.so")
_BY_SUFFIX = {".npz": mutate_zip, ".onnx": mutate_protobuf, ".bin": mutate_bytes}


def _seeds() -> Mapping[str, Files]:
    return {"bundle": tiny_bundle()}


def _mutate(files: Files, rng: random.Random) -> Files:
    kind = rng.random()
    if kind < 0.1:
        return {**files, rng.choice(_EXTRA): rng.randbytes(20)}
    if kind < 0.2:
        return {**files, MANIFEST: mutate_json(files[MANIFEST], rng)}
    rest = {name: content for name, content in files.items() if name != MANIFEST}
    if kind < 0.3:
        del rest[rng.choice(sorted(rest))]
        return {**rest, MANIFEST: files[MANIFEST]}
    changed = mutate_one(rest, rng, _BY_SUFFIX)
    if kind < 0.6:  # by somebody who makes the digests agree
        manifest = json.loads(files[MANIFEST])
        manifest["files"] = {n: hashlib.sha256(c).hexdigest() for n, c in changed.items()}
        return {**changed, MANIFEST: json.dumps(manifest).encode()}
    return {**changed, MANIFEST: files[MANIFEST]}


def _read(folder: Path, seed: Files) -> None:
    bundle = Bundle.open(folder)
    files = {name: content for name, content in read_files(folder).items() if name != MANIFEST}
    named = {*bundle.changed_files(), *bundle.unlisted_files()}
    if (folder / MANIFEST).read_bytes() == seed[MANIFEST]:
        others = {n for n in files.keys() | seed.keys() if files.get(n) != seed.get(n)} - {MANIFEST}
        if not others - {"model.engine"} <= named:
            raise Fault(f"{others} are other files, named were {named}")
    found = verify(bundle, "cpu", 0.001).report
    as_json(found)
    if not found.passed:
        return
    wrong = bundle.damaged_files() + [n for n in found.unlisted_files if could_be_imported(n)]
    if wrong or len(found.references) != len(bundle.references):
        raise Fault(f"passed with {wrong}, of {len(found.references)} references")


READER = Reader(_seeds, _mutate, _read, starts_processes=True)  # that tell of the device
