"""The page is read with an HTML parser; pictures and contrasts are computed again."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from _support.certificates import certificate_of, crop, device_certificate, flat, model_certificate
from _support.report_pages import Page
from adadm.deployment.certification.report.crops import Crop
from adadm.deployment.certification.report.page import write_report
from adadm.runtime.errors import MissingDependencyError

OPTIONAL = ("checks", "photographs", "blocks", "layers", "speed")
SECTIONS = ["subject", "checks", "ledger", *OPTIONAL[1:], "device", "digests"]
COLOURS = ("text", "muted", "accent", "good", "bad", "warm")


def page_of(folder: Path, certificate: dict[str, Any], crops: Sequence[Crop] = ()) -> Page:
    write_report(certificate_of(certificate), crops, folder / "report.html")
    return Page(folder / "report.html")


def pictures(page: Page) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    contents = [(found["src"] or "").split(";base64,") for found in page.all("img")]
    assert {kind for kind, _ in contents} == {"data:image/webp"}
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for _, text in contents]


@pytest.fixture(params=["model", "device"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Page:
    if request.param == "model":
        crops = [crop("owl.png"), crop("ramp", original=False)]
        return page_of(tmp_path, model_certificate(), crops)
    return page_of(tmp_path, device_certificate())


def test_refers_to_nothing_outside(page: Page) -> None:
    references = page.values("href", "src", "srcset", "action", "data", "poster", "xlink:href")
    assert all(found.startswith(("data:", "#")) for found in references)
    assert not re.search(r"@import|url\(", page.style + str(page.values("style")))
    assert not re.search(r"fetch|import|http", page.script)
    policy = page.all("meta")[1]["content"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_ids_are_unique_and_what_is_referred_to_is_there(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    referred = [found[1:] for found in page.values("href") if found.startswith("#")]
    referred += page.values("aria-labelledby")
    assert set(referred) <= set(ids)
    assert len(referred) > 10


def test_headings_and_tables_are_whole(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.tables) > 1
    for rows in page.tables:
        assert len(rows) > 1 and len(set(rows)) == 1
    assert all(found.get("scope") in ("row", "col") for found in page.all("th"))
    charts = [found for _, found in page.tags if found.get("role") == "img"]
    assert all(found["aria-label"] for found in charts)


def test_a_model_that_passed_has_no_place(tmp_path: Path) -> None:
    text = page_of(tmp_path, {**model_certificate(), "passed": True, "failures": []}).text
    assert "Passed x2 int8.onnx matches its reference, within every limit that is not" in text
    assert "goes wrong" not in text


def test_a_model_is_told_with_figures_for_people(tmp_path: Path) -> None:
    text = page_of(tmp_path, model_certificate()).text
    for part in (
        "Failed x2 int8.onnx does not match its reference.",
        "PSNR-Y lost is 1.41 dB (mean), required at most 0.02",
        "Where it goes wrong: body.1.conv2. From block 1 on it is off.",
        "What to do: keep more in FP16",
        "Checks within their limits 2 of 4",
        "2026-11-24 19:40 UTC",
        "../models/x2 int8.onnx, 1.23 MB",
        "../x2.safetensors, 987 bytes",
        "edsr x2",
        "float32, 0 to 255",
        "border passed -0.0508 dB ≤ 3 dB",
        "PSNR-Y lost failed 1.41 dB ≤ 0.02 dB",
        "worst parity passed ? ≥ 52.11 dB owl.png Left out, as the reference itself fails there: "
        "sky.",
        "sky accepted 9.30 dB ≤ 1 dB",
        "Accepted by name, although they fail: sky.",
        "folded 35.766 0.0000 identical 0 ?",
        "FP16 35.765 +0.0004 78.3 0.21 5.3 x 10⁻⁵ % in block 1",
        "INT8 34.355 +1.4104 61.5 2.7 1.2 % in block 0",
        "owl.png 61.5 2.7 +1.410 35.81 34.40 30.12",
        "equal.png identical 0 0.000 33.25 33.25 30.12",
        "19.2, 30.4, 38.1 19.2, 30.5, 38.3 1.2 %",
        "the worst: body.1.conv2 with 9.3 dB, body.0.conv1 with 39.2 dB, body.1.conv1 with 41.5 dB",
        "body.0.conv2 Conv 0 INT8 36.4 ? 0.44 % 102 %",
        "reference, PyTorch 320 x 180 1,611 1,619 0.143 ?",
        "this model, cpu 320 x 180 244 252 0.945 187 MB",
        "Memory 7.99 GB",
        "cpu0 1,728, cpu1 730 MHz",
    ):
        assert part in text, part
    assert "look into it" not in text, "the remedy of what passed"


def test_a_device_is_told_by_its_references(tmp_path: Path) -> None:
    text = page_of(tmp_path, device_certificate()).text
    for part in (
        "gives other results on this device than where it was made.",
        "Where it goes wrong: block 3 is the first",
        "coffee failed whole sr 31.2 50.0 61.3 sr: 31.2 dB; asked 50.0 dB",
        "smallest passed whole sr identical 50.0 0",
        "flat failed whole sr ? 48.0 ? sr: the found output has nan",
        "tile failed whole did not run tile.engine is not there",
        "End to end 213 4.58 4.61 4.81 5.90 4.40 7.20",
        hashlib.sha256(b"result").hexdigest(),
    ):
        assert part in text, part
    assert "see the text" not in text and "Kernels alone" not in text


def test_what_is_read_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert('owl')</script> & \"x\".png"
    steering = "owl\x1b[31m\u202egnp.\n\udce9"
    certificate = model_certificate()
    certificate["photographs"][0]["name"] = certificate["blocks"][0]["name"] = name
    certificate["failures"] = certificate["checks"][0]["left_out"] = [name]
    certificate["model"]["file"] = certificate["ledger"]["stages"][1]["name"] = name
    certificate["place"]["text"] = certificate["versions"][name] = name
    certificate["photographs"][1]["name"] = certificate["blocks"][1]["name"] = steering
    page = page_of(tmp_path, certificate, [crop(name)])
    assert len(page.all("script")) == 1
    assert page.text.count(name) > 8
    assert page.text.count(r"owl\x1b[31m\u202egnp.\n\udce9") > 1
    assert not any(character in page.text for character in "\x1b\u202e\udce9")
    assert any(name in (found["aria-label"] or "") for found in page.all("input")[-1:])


@pytest.mark.parametrize("empty", OPTIONAL)
def test_sections_without_content_are_left_out(tmp_path: Path, empty: str) -> None:
    certificate = model_certificate()
    assert sections(page_of(tmp_path, certificate)) == SECTIONS
    without = page_of(tmp_path, {**certificate, empty: []})
    assert sections(without) == [name for name in SECTIONS if name != empty]
    assert f"#{empty}" not in without.values("href")


def sections(page: Page) -> list[str]:
    found = [section["id"] for section in page.all("section") if section.get("class") == "card"]
    return [name for name in found if name is not None]


def test_without_originals_there_is_no_psnr(tmp_path: Path) -> None:
    certificate = model_certificate()
    certificate["images"]["originals"], certificate["failures"] = False, []
    del certificate["checks"][0]
    for row in (*certificate["ledger"]["stages"], *certificate["photographs"]):
        row |= {name: None for name in ("psnr_y_db", "lost_db", "bicubic_db") if name in row}
    page = page_of(tmp_path, certificate, [crop("owl.png", original=False)])
    assert "PSNR-Y" not in page.text and "bicubic" not in page.text
    assert len(page.all("img")) == 3
    assert "original" not in [found.get("value") for found in page.all("input")]


def test_nothing_is_infinite_or_none(tmp_path: Path) -> None:
    certificate = model_certificate()
    for layer in certificate["layers"]:
        layer["largest_shift"] = layer["snr_db"] = None
    certificate["blocks"][1] |= {"found": None, "error": None}
    certificate["model"] |= {"bytes": None, "rgb_range": None, "target": None}
    page = page_of(tmp_path, certificate, [crop("owl.png")])
    assert not re.search(r"\b(inf(inity)?|nan|none|null|undefined)\b", page.text, re.IGNORECASE)
    drawn = page.values("x", "y", "x1", "y1", "width", "height", "style")
    assert not re.search(r"inf|nan|none", " ".join(drawn), re.IGNORECASE)
    assert "the worst: body.1.conv2" in page.text


def test_charts_are_to_scale(tmp_path: Path) -> None:
    page = page_of(tmp_path, model_certificate())
    lengths = [
        float(found[1])
        for style in page.values("style")
        if (found := re.search(r"left:.*width:([\d.]+)%", style))
    ]
    span = 1.41038 + 2.83e-6
    expected = [2.83e-6 / span, 0.000418369 / span, 1.41038 / span]
    expected += [1, 78.2772 / 78.2772, 61.4779 / 78.2772, 1, 243.7 / 1611.2]
    assert lengths == pytest.approx([100 * share for share in expected], abs=0.01)

    rects = [found for found in page.all("rect") if "range" in (found["class"] or "")]
    heights = [float((found["height"] or "").rstrip("%")) for found in rects]
    spreads = [38.1 - 19.17, 38.3 - 19.2, 21.5 - 14.38, 21.6 - 14.38]
    assert heights == pytest.approx([100 * spread / 40 for spread in spreads], abs=0.01)


def test_is_the_same_for_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        page_of(tmp_path / name, model_certificate(), [crop("owl.png")])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["report.html"]
    one, two = (path.read_bytes() for path in tmp_path.glob("*/report.html"))
    assert one == two


def test_pictures_are_exact_and_the_difference_is_amplified(tmp_path: Path) -> None:
    crops = [crop("owl.png", planted=3), crop("ramp", planted=3, original=False)]
    page = page_of(tmp_path, model_certificate(), crops)
    shown = pictures(page)
    first, second = crops
    assert first.original is not None
    expected = [first.original, first.reference, first.found, second.reference, second.found]
    for found, wanted in zip(shown[:3] + shown[4:6], expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    # 64 / 3 lies between 16 and 32.
    planted = np.full((48, 32, 3), 128)
    planted[:24:2, :16], planted[1:24:2, :16] = 128 + 3 * 16, 128 - 3 * 16
    np.testing.assert_array_equal(shown[3], planted)
    np.testing.assert_array_equal(shown[6], planted)
    assert page.text.count("Difference x16") == 4


def test_a_difference_is_shown_around_grey_and_clipped_not_wrapped(tmp_path: Path) -> None:
    equal = Crop("flat", 0, 0, "flat level", None, flat(9, 60, 200), flat(9, 60, 200))
    opposite = Crop("edge", 0, 0, "ringing", None, flat(255, 0, 100), flat(0, 255, 101))
    page = page_of(tmp_path, model_certificate(), [equal, opposite])
    shown = pictures(page)
    np.testing.assert_array_equal(shown[2], flat(128, 128, 128))
    np.testing.assert_array_equal(shown[5], flat(0, 255, 129))
    assert "Difference x1" in page.text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(tmp_path: Path, theme: str) -> None:
    style = page_of(tmp_path, model_certificate()).style
    light, dark, *_ = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    block = light if theme == "light" else dark
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    assert len(colours) == 13
    pairs = [
        *itertools.product(COLOURS, ("page", "card")),
        *itertools.product(("text", "muted"), ("sunken", "good-soft", "bad-soft")),
        *(("good", "good-soft"), ("bad", "bad-soft")),
    ]
    for colour, ground in pairs:
        assert contrast(colours[colour], colours[ground]) >= 4.5, (colour, ground)
    assert contrast(colours["band"], colours["card"]) >= 3


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    shares = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_command_names_the_certificate(tmp_path: Path) -> None:
    write_report(certificate_of(model_certificate()), [], tmp_path / "x2 int8.html")
    text = Page(tmp_path / "x2 int8.html").text
    assert "adadm validate --certificate 'x2 int8.json'" in text


def test_without_jinja2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"jinja2 is not .*adadm-deploy\[validate\]"):
        write_report(certificate_of(model_certificate()), [], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
