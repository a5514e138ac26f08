"""MANIFEST.json of a bundle, against Python's own parser and the folder."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from adadm.runtime.bundles.bundle import MANIFEST, Bundle, BundleManifest
from adadm.runtime.json_format import as_json
from fuzz.mutations import mutate_json
from fuzz.reader import Fault, Files, Reader
from fuzz.tiny_bundle import tiny_bundle


def _seeds() -> Mapping[str, Files]:
    return {"jetpack6": tiny_bundle(), "jetpack5": tiny_bundle("jetson-orin-jp51")}


def _mutate(files: Files, rng: random.Random) -> Files:
    changed = mutate_json(files[MANIFEST], rng)
    if rng.random() < 0.3 and len(changed) < 100_000:
        changed = mutate_json(changed, rng)
    return {**files, MANIFEST: changed}


def _read(folder: Path, seed: Files) -> None:
    bundle = Bundle.open(folder)
    content = json.loads((folder / MANIFEST).read_bytes().decode("utf-8-sig"))
    read = as_json(BundleManifest(**{f.name: vars(bundle)[f.name] for f in fields(BundleManifest)}))
    if read != content:
        raise Fault(f"expected {content}, got {read}")
    for path in bundle.read_files:
        if folder.resolve() not in path.resolve().parents:
            raise Fault(f"{path} is outside")
    changed = bundle.changed_files()
    wrong = [n for n, sha256 in bundle.files.items() if bundle.digest(n) != sha256]
    if not set(wrong) <= set(changed):
        raise Fault(f"{wrong} are other files, named were {changed}")
    assert bundle.target and bundle.profiles
    bundle.unlisted_files()
    for reference in bundle.references:
        bundle.arrays(reference)


READER = Reader(_seeds, _mutate, _read)
