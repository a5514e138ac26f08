"""A parity certificate as one HTML page, which needs no network and no library to be read."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adadm.runtime.errors import require
from adadm.runtime.files import written_whole
from adadm.runtime.images.arrays import ImageArray, encoded

__all__ = ["Crop", "write_report"]

_TEMPLATES = Path(__file__).with_name("templates")
_SECTIONS = {
    "subject": "What was certified",
    "checks": "Checks",
    "references": "References",
    "ledger": "Cost of each stage",
    "photographs": "Where it differs most",
    "blocks": "Modulation factors",
    "layers": "Error by layer",
    "speed": "Speed and memory",
    "device": "Device and versions",
    "digests": "Verify again",
}
"""In the order of the page; each has a template of that name."""

_STYLES = ("report.css", "sections.css", "charts.css", "crops.css", "media.css")
_ABSENT = {
    **dict.fromkeys(("checks", "references", "photographs", "blocks", "layers", "speed"), ()),
    **dict.fromkeys(("place", "reason", "diagnosis", "latency", "ledger", "images")),
    "result_sha256": None,
    "file": "FILE.json",
}
"""What stands for what only some certificates have."""

_WIDEST_PX = {"wide": 496, "narrow": 288}
"""A crop is enlarged up to this: two beside each other on the page; one on a telephone."""

_VISIBLE_LEVELS = 64.0  # a quarter of white on mid-grey
_MID_GREY = 128
_NOTHING, _MINUS, _TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Crop:
    """A piece of a photograph that the page shows.

    Attributes:
        left, top: of the crop, px of sr.
        reason: why it is shown.
        original: None where there are no originals.
        reference, found: the outputs of the reference and of the model; all of one size.
    """

    photograph: str
    left: int
    top: int
    reason: str
    original: ImageArray | None
    reference: ImageArray
    found: ImageArray


def write_report(certificate: Mapping[str, Any], crops: Sequence[Crop], path: Path) -> None:
    """Write the page, whole or not at all; the same bytes for the same certificate and crops.

    What the certificate does not have is left out.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2", "validate")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _NOTHING if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": _bytes,
        "figure": _figure,
        "fixed": _fixed,
        "percent": _percent,
        "quoted": shlex.quote,
        "signed": _signed,
        "time": _time,
    }
    environment.globals["ticks"] = _ticks
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    amplification = _amplification(crops)
    page = environment.get_template("report.html.j2").render(
        {**_ABSENT, **certificate},
        sections=_sections(certificate, crops),
        crops=[_shown(crop, amplification) for crop in crops],
        amplification=amplification,
        style="\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _STYLES),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


def _sections(certificate: Mapping[str, Any], crops: Sequence[Crop]) -> dict[str, str]:
    """Titles by the names of those that have something to say."""
    always = {"subject", "device", "digests"}
    also = {"photographs": bool(crops), "speed": bool(certificate.get("latency"))}
    return {
        name: title
        for name, title in _SECTIONS.items()
        if name in always or certificate.get(name) or also.get(name)
    }


def _amplification(crops: Sequence[Crop]) -> int:
    """The power of two that makes the usual difference visible.

    By the root mean square of all that differ, which a few large ones do not decide alone.
    """
    squares = [float(d) ** 2 for crop in crops for d in _difference(crop).flat if d]
    if not squares:
        return 1
    usual = math.sqrt(math.fsum(squares) / len(squares))
    return int(2 ** max(0, math.floor(math.log2(_VISIBLE_LEVELS / usual))))


def _difference(crop: Crop) -> np.ndarray[Any, np.dtype[np.int16]]:
    return crop.found.astype(np.int16) - crop.reference


def _shown(crop: Crop, amplification: int) -> dict[str, Any]:
    """What the template needs of a crop; views by their labels, left out where there is none."""
    amplified = np.clip(_MID_GREY + amplification * _difference(crop), 0, 255).astype(np.uint8)
    height, width = crop.found.shape[:2]
    views = {
        "original": crop.original,
        "reference": crop.reference,
        "model": crop.found,
        "difference": amplified,
    }
    return {
        "photograph": crop.photograph,
        "left": crop.left,
        "top": crop.top,
        "reason": crop.reason,
        "width": width,
        "height": height,
        "enlarged": {name: max(1, widest // width) for name, widest in _WIDEST_PX.items()},
        "views": {name: _data_uri(view) for name, view in views.items() if view is not None},
    }


def _data_uri(image: ImageArray) -> str:
    content = encoded(image, ".webp", lossless=True, quality=100)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _figure(value: float | None, digits: int = 3) -> str:
    """So many significant digits."""
    if value is None or not math.isfinite(value):
        return _NOTHING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} {_TIMES} 10{str(int(power)).translate(_SUPERSCRIPTS)}".replace(
            "-", _MINUS
        )
    return _fixed(value, max(0, digits - 1 - exponent))


def _fixed(value: float | None, places: int) -> str:
    """So many decimals; a true minus, and none before what is rounded to zero."""
    if value is None or not math.isfinite(value):
        return _NOTHING
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", _MINUS)


def _signed(value: float | None, places: int) -> str:
    text = _fixed(value, places)
    return f"+{text}" if value and round(value, places) > 0 else text


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{_figure(100 * value, 2)} %"


def _bytes(value: float | None) -> str:
    if value is None:
        return _NOTHING
    power = min(3, int(math.log(max(value, 1), 1000)))
    return f"{_figure(value / 1000**power)} {('bytes', 'kB', 'MB', 'GB')[power]}"


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to at least `largest`, three to six of them."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 2))
    step = next(power * factor for factor in (0.5, 1, 2, 5, 10) if largest / (power * factor) <= 5)
    return [step * index for index in range(math.ceil(largest / step - 1e-9) + 1)]
