"""Certificates: none that was changed holds, but for fields that no digest can vouch for."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _support.certificates import certificate_of, model_certificate
from adadm.deployment.certification.certificate import read_certificate, sealed
from adadm.deployment.certification.consistency import inconsistencies
from adadm.deployment.certification.device_result import certify_on_device
from adadm.deployment.certification.recheck import Places, check_files, recheck
from adadm.runtime import json_format
from adadm.runtime.records import digest_of
from fuzz.mutations import mutate_json, mutate_one, mutate_value
from fuzz.reader import Fault, Files, Reader, write_files
from fuzz.tiny_bundle import tiny_bundle, with_result

_NAME = "certificate.json"


def _seeds() -> Mapping[str, Files]:
    device = with_result(tiny_bundle())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, device)
        made = certify_on_device(
            folder / "result.json", folder / "bundle", at=folder / _NAME, accepted=["no-engine"]
        )
    content = {**json_format.as_json(made), "made": "2026-11-28T00:00:00+00:00"}
    return {
        "model": {_NAME: _text(model_certificate())},
        "device": {**device, _NAME: _text(content)},
    }


def _text(content: dict[str, Any]) -> bytes:
    return json_format.text(sealed(certificate_of(content))).encode()


def _mutate_certificate(data: bytes, rng: random.Random) -> bytes:
    """The certificate, in some cases with the digest of what was changed."""
    if rng.random() < 0.4:
        return mutate_json(data, rng)
    changed = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed = mutate_value(changed, rng)
    try:
        return json.dumps({**changed, "sha256": digest_of(changed)}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return mutate_json(data, rng)


def _mutate(files: Files, rng: random.Random) -> Files:
    if rng.random() < 0.9 or len(files) == 1:
        return {**files, _NAME: _mutate_certificate(files[_NAME], rng)}
    return mutate_one(files, rng, {".json": mutate_json})


def _read(folder: Path, seed: Files) -> None:
    path = folder / _NAME
    certificate = read_certificate(path)
    wrong = list(inconsistencies(certificate))
    check_files(path, certificate)
    content, before = json_format.as_json(certificate), json.loads(seed[_NAME])
    if content != before and content["sha256"] == before.get("sha256") and not wrong:
        raise Fault("it was changed, and no digest says so")
    if certificate.kind != "device":
        return
    again = recheck(path, Places(), {})
    if again.problems:
        return
    names = ("passed", "failures", "model", "references", "latency", "device", "accepted")
    changed = any(content[name] != before[name] for name in names)
    if changed and content["accepted"] == before["accepted"] and _same_files(folder, seed):
        raise Fault("a figure was changed, and it holds")


def _same_files(folder: Path, seed: Files) -> bool:
    return all((folder / name).read_bytes() == seed[name] for name in seed if name != _NAME)


READER = Reader(_seeds, _mutate, _read)
