"""What a device sent back: its certificate passes only with the figures that the bundle asks."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adadm.deployment.certification.certificate import read_certificate
from adadm.deployment.certification.device_result import certify_on_device
from adadm.deployment.certification.report.page import page_path, write_certificate
from adadm.runtime.bundles.bundle import MANIFEST
from fuzz.hostile_pages import check_page
from fuzz.mutations import mutate_json, mutate_one
from fuzz.reader import Fault, Files, Reader
from fuzz.tiny_bundle import tiny_bundle, with_result


def _seeds() -> Mapping[str, Files]:
    whole = with_result(tiny_bundle())
    return {"cpu": whole, "engine": {**whole, "result.json": _on_engine(whole["result.json"])}}


def _on_engine(result: bytes) -> bytes:
    content = json.loads(result)
    times = {"count": 3, "mean": 4.5, "median": 4.4, "p90": 5.0, "p99": 5.1, "min": 4, "max": 6}
    content["latency"] = {"reference": "waves", "end_to_end_ms": times, "kernels_ms": times}
    content["sha256"] |= {"model.engine": "e" * 64}
    return json.dumps({**content, "backend": "engine"}, indent=2).encode()


def _mutate(files: Files, rng: random.Random) -> Files:
    if rng.random() < 0.9:
        return {**files, "result.json": mutate_json(files["result.json"], rng)}
    return mutate_one(files, rng, {".json": mutate_json})


def _read(folder: Path, seed: Files) -> None:
    result, at = folder / "result.json", folder / "certificate.json"
    certificate = certify_on_device(result, folder / "bundle", at=at, accepted=["no-engine"])
    write_certificate(certificate, (), at)
    read_certificate(at)
    check_page(page_path(at))
    if certificate.passed:
        content = json.loads(result.read_bytes().decode("utf-8-sig"))
        if (folder / "bundle" / MANIFEST).read_bytes() != seed[f"bundle/{MANIFEST}"]:
            raise Fault("another bundle passed")
        for problem in _problems(content, json.loads(seed["result.json"])):
            raise Fault(f"passed, but {problem}")


def _problems(content: dict[str, Any], seed: dict[str, Any]) -> list[str]:
    """What forbids that a result passes, by its own figures."""
    shipped = (MANIFEST, "model.onnx")
    problems = [n for n in shipped if content["sha256"].get(n) != seed["sha256"][n]]
    problems += content["changed_files"]
    rows = [
        row for row in content["references"] if (row["form"], row["name"]) == ("whole", "waves")
    ]
    db = [row["outputs"]["sr"]["psnr_db"] for row in rows[-1:]]
    problems += [] if db and (db[0] is None or db[0] >= 90) else [f"waves has {db} dB"]
    return problems + ([] if content["passed"] is True else ["the device failed"])


READER = Reader(_seeds, _mutate, _read)
