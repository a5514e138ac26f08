"""The report of a certificate that has hostile strings in every field and key."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _support.certificates import crop, device_certificate, model_certificate
from adadm.deployment.certification.certificate import read_certificate, sealed
from adadm.deployment.certification.report.page import write_report
from fuzz.hostile_pages import check_page
from fuzz.mutations import mutate_json, mutate_value
from fuzz.reader import Files, Reader

_HOSTILE = (
    *("<script>alert(1)</script>", "</title><script src=//x>", '"><img src=x onerror=alert(1)>'),
    *("'onmouseover='alert(1)", "javascript:alert(1)", "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;"),
    *("\u202egnp.exe", "\u2066a\u2069", "\u200fa\u200e", "\u061c", "\x1b[2J", "a\0b", "\u2028", ""),
    *("]]>", "-->", "<!--", "</style>", "</svg><a href=http://x>", "x" * 3000, "url(http://x)"),
    *("\ufeff", "\U000e0041", "\x85", "\r\n", "2026-11-24T19:40:00+00:00", "../../x", "$(touch x)"),
)


def _seeds() -> Mapping[str, Files]:
    contents = {"model": model_certificate(), "device": device_certificate()}
    return {name: {"c.json": json.dumps(content).encode()} for name, content in contents.items()}


def _mutate(files: Files, rng: random.Random) -> Files:
    content = json.loads(files["c.json"])
    share = rng.choice((0.02, 0.2, 1.0))
    if rng.random() < 0.8:
        content = _hostile(content, rng, share)
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 2, 4))):
            content = mutate_value(content, rng)
    text = json.dumps(content).encode("utf-8", "surrogatepass")
    return {"c.json": mutate_json(text, rng) if rng.random() < 0.1 else text}


def _hostile(value: Any, rng: random.Random, share: float) -> Any:
    if isinstance(value, dict):
        fixed = {"format", "kind", "verdict"}
        return {n: v if n in fixed else _hostile(v, rng, share) for n, v in value.items()}
    if isinstance(value, list):
        return [_hostile(entry, rng, share) for entry in value]
    if isinstance(value, str) and rng.random() < share:
        return rng.choice(_HOSTILE)
    return value


def _read(folder: Path, seed: Files) -> None:
    certificate = sealed(read_certificate(folder / "c.json"))
    file, is_model = certificate.model.file, certificate.kind == "model"
    crops = [crop(file)] if is_model and len(file) % 5 == 0 else []  # which take time
    write_report(certificate, crops, folder / "c.html")
    check_page(folder / "c.html")


READER = Reader(_seeds, _mutate, _read)
