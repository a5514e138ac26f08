"""Write a parity certificate as one HTML page that needs no network and no library."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from adadm.deployment.certification.certificate import Certificate, sealed
from adadm.deployment.certification.report.crops import Crop, amplification_of, render_crop
from adadm.runtime import json_format
from adadm.runtime.errors import require
from adadm.runtime.files import written_whole
from adadm.runtime.terminal import shown

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
"""Sections in the order of the page; each has a template of that name."""

_STYLES = ("report.css", "sections.css", "charts.css", "crops.css", "media.css")
_ABSENT = {
    **dict.fromkeys(("checks", "references", "photographs", "blocks", "layers", "speed"), ()),
    **dict.fromkeys(("reason", "diagnosis", "latency", "ledger", "images", "result_sha256")),
}
"""Defaults of fields that only some certificates have."""

_NOTHING, _MINUS, _TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_certificate(certificate: Certificate, crops: Sequence[Crop], path: Path) -> None:
    """Write a certificate and its report: each whole, and no certificate without its report."""
    certificate = sealed(certificate)
    with written_whole(path) as partial:
        partial.write_text(json_format.text(certificate), encoding="utf-8")
        write_report(certificate, crops, page_path(path))


def page_path(path: Path) -> Path:
    """Path of the report of a certificate."""
    return path.with_suffix(".html")


def write_report(certificate: Certificate, crops: Sequence[Crop], path: Path) -> None:
    """Write the page, whole or not at all; equal certificates and crops give equal bytes.

    Sections that the certificate lacks are left out.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    environment = _environment(require("jinja2", "validate"))
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    amplification = amplification_of(crops)
    page = environment.get_template("report.html.j2").render(
        {**_ABSENT, **vars(certificate)},
        file=path.with_suffix(".json").name,
        sections=_sections(certificate, crops),
        crops=[render_crop(crop, amplification) for crop in crops],
        amplification=amplification,
        style="\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _STYLES),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


@cache
def _environment(jinja2: ModuleType) -> Any:
    """The templates, compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (_bytes, _figure, _fixed, _percent, _signed, _time)
    environment.filters |= {shown.__name__.removeprefix("_"): shown for shown in filters}
    environment.filters["quoted"] = shlex.quote
    environment.globals["ticks"] = _ticks
    environment.tests["finite"] = _is_finite
    return environment


def _final(value: Any) -> Any:
    """What a page has for a value: names show their control characters, as on a terminal."""
    if value is None:
        return _NOTHING
    return shown(value) if type(value) is str else value


def _sections(certificate: Certificate, crops: Sequence[Crop]) -> dict[str, str]:
    """Titles, by name, of the sections with content."""
    content = vars(certificate)
    always = {"subject", "device", "digests"}
    also = {"photographs": bool(crops), "speed": bool(content.get("latency"))}
    return {
        name: title
        for name, title in _SECTIONS.items()
        if name in always or content.get(name) or also.get(name)
    }


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _figure(value: float | None, digits: int = 3) -> str:
    """Format a value with some significant digits."""
    if value is None or not math.isfinite(value):
        return _NOTHING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        raised = str(int(power)).translate(_SUPERSCRIPTS)
        return f"{mantissa.replace('-', _MINUS)} {_TIMES} 10{raised}"
    return _fixed(value, max(0, digits - 1 - exponent))


def _fixed(value: float | None, places: int) -> str:
    """Format a value with some decimals; with a true minus, but none before a rounded zero."""
    if value is None or not math.isfinite(value):
        return _NOTHING
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", _MINUS)


def _signed(value: float | None, places: int) -> str:
    text = _fixed(value, places)
    return f"+{text}" if value and round(value, places) > 0 else text


def _percent(value: float | None) -> str:
    return _NOTHING if value is None or math.isinf(value) else f"{_figure(100 * value, 2)} %"


def _bytes(value: float | None) -> str:
    if value is None:
        return _NOTHING
    power = min(3, int(math.log(max(value, 1), 1000)))
    return f"{_figure(value / 1000**power)} {('bytes', 'kB', 'MB', 'GB')[power]}"


def _time(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:  # of a certificate from elsewhere
        return text


def _ticks(largest: float) -> list[float]:
    """Three to six round numbers from 0 to at least `largest`."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 2))
    step = next(power * factor for factor in (0.5, 1, 2, 5, 10) if largest / (power * factor) <= 5)
    return [step * index for index in range(math.ceil(largest / step - 1e-9) + 1)]
