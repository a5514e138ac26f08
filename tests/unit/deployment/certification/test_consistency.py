"""Whether a certificate is believed without measuring again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _support.certificates import model_certificate
from adadm.deployment.certification.consistency import is_certificate_of
from adadm.deployment.certification.criteria import KEYS, Thresholds
from adadm.runtime.json_format import rounded
from adadm.runtime.records import digest_of

GIVEN = {"lost_db": 1 / 30}
MODEL, REFERENCE, IMAGES = "1" * 64, "2" * 64, "3" * 64
TILES = {"x2.tile.onnx": "4" * 64, "x2.moments.onnx": "5" * 64}
ACCEPTED = ("owl.png", "sky")
BOUND_TO: dict[str, Any] = {
    "companions": TILES,
    "reference": REFERENCE,
    "images": IMAGES,
    "given": GIVEN,
    "accepted": ACCEPTED,
}


def certificate() -> dict[str, Any]:
    """One that passes, and holds by itself."""
    thresholds = Thresholds.of("int8", GIVEN)
    content = model_certificate()
    checks = []
    for name, key in KEYS.items():
        limit = thresholds.limits[key]
        at_least = key == "parity_db"
        figure = limit + 1 if at_least else limit / 2
        row = {"name": name, "figure": figure, "limit": limit, "at_least": at_least}
        checks.append({**content["checks"][0], **row, "passed": True})
    checks[-1]["left_out"] = ["sky"]
    checks.append(_accepted("sky", 9.0, "dB"))
    checks.append(_accepted("owl.png", 1.25, "x limit"))
    photographs = content["photographs"]
    photographs[0]["limits"] = {"beyond": {"body.1": 1.25, "body.0": 1.1}, "largest_error": 3.0}
    companions = {f"models/{name}": digest for name, digest in TILES.items()}
    return {
        **content,
        "passed": True,
        "model": {**content["model"], "sha256": MODEL, "companions": companions},
        "reference": {**content["reference"], "sha256": REFERENCE},
        "images": {**content["images"], "digest": IMAGES},
        "thresholds": {"limits": dict(thresholds.limits), "given": GIVEN},
        "accepted": list(ACCEPTED),
        "checks": checks,
        "photographs": photographs,
    }


def _accepted(name: str, figure: float, unit: str) -> dict[str, Any]:
    row = {"name": name, "figure": figure, "unit": unit, "limit": 1.0, "at_least": False}
    more = {"where": "a", "remedy": "b", "left_out": [], "passed": False, "accepted": True}
    return {**row, **more}


def is_believed(tmp_path: Path, content: Any) -> bool:
    """With the digest that it would have, as whoever edits it can compute that too."""
    path = tmp_path / "c.json"
    if isinstance(content, dict):
        content = rounded(content)
        content = {**content, "sha256": digest_of(content)}
    path.write_text(json.dumps(content))
    return is_certificate_of(path, MODEL, **BOUND_TO)


def test_one_that_holds_is_believed(tmp_path: Path) -> None:
    assert is_believed(tmp_path, certificate())
    failed = certificate()
    failed["checks"][0].update(figure=9.0, passed=False)
    assert is_believed(tmp_path, {**failed, "passed": False})


def with_lax_limit(c: dict[str, Any]) -> None:
    c["thresholds"]["limits"]["parity_db"] = c["checks"][1]["limit"] = 0


@pytest.mark.parametrize(
    "forge",
    [
        lambda c: c["checks"][0].update(figure=9.0),
        lambda c: c["checks"][0].update(figure=None),
        lambda c: c["checks"][0].update(limit=99),
        lambda c: c["checks"][0].update(passed=False),
        lambda c: c["checks"].pop(0),
        lambda c: c["checks"].pop(),
        lambda c: c.update(checks=[]),
        lambda c: c.update(passed=False),
        lambda c: c.update(kind="device"),
        lambda c: c["thresholds"].update(given={"lost_db": 99}),
        lambda c: c["model"].update(sha256="0" * 64),
        lambda c: c["model"]["companions"].update({"models/x2.tile.onnx": "0" * 64}),
        lambda c: c["model"].update(companions={}),
        lambda c: c["model"].update(companions=[]),
        lambda c: c["reference"].update(sha256="0" * 64),
        lambda c: c["images"].update(digest="0" * 64),
        lambda c: c.pop("thresholds"),
        lambda c: c.update(model=None),
        lambda c: c.update(checks=7),
        with_lax_limit,
        lambda c: c["checks"][-1].update(figure=1.01),
        lambda c: c["checks"][-1].update(limit=2.0),
        lambda c: c["checks"][-2].update(limit=20.0, passed=True, accepted=False),
        lambda c: c["checks"][-2].update(accepted=False),
        lambda c: c["checks"].pop(-2),
        lambda c: c["checks"][-3].update(left_out=[]),
        lambda c: c["photographs"][0]["limits"].update(beyond={}),
        lambda c: c["photographs"][1]["limits"]["beyond"].update({"body.0": 1.5}),
        lambda c: c.update(accepted=["sky"]),
        lambda c: c.update(accepted=["owl.png", "sky", "border"]),
        lambda c: c["checks"][0].update(figure=9.0, passed=False, accepted=True),
    ],
)
def test_one_that_was_edited_is_not(
    tmp_path: Path, forge: Callable[[dict[str, Any]], object]
) -> None:
    content = certificate()
    forge(content)
    assert not is_believed(tmp_path, content)


@pytest.mark.parametrize("content", [None, [], "passed", {}])
def test_what_is_no_certificate_is_not(tmp_path: Path, content: object) -> None:
    assert not is_believed(tmp_path, content)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("none.json", "deep.json"):
        assert not is_certificate_of(tmp_path / name, MODEL, **BOUND_TO)
