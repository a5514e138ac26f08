"""The report as a browser shows it, without a network."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from PIL import Image

from _support.certificates import certificate_of, crop, device_certificate, flat, model_certificate
from adadm.deployment.certification.report.crops import Crop
from adadm.deployment.certification.report.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RED, GREEN, BLUE = (250, 10, 20), (20, 200, 30), (10, 20, 240)
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    planted = Crop("flat", 0, 0, "flat level", flat(*GREEN), flat(*RED), flat(*BLUE))
    crops = [planted, crop("ramp", original=False)]
    failed = model_certificate()
    failed["blocks"] *= 16
    failed["layers"] *= 30
    passed = {**model_certificate(), "passed": True, "failures": []}
    for name, certificate, shown in (
        ("failed", failed, crops),
        ("passed", passed, crops),
        ("device", device_certificate(), []),
    ):
        write_report(certificate_of(certificate), shown, folder / f"{name}.html")
    return {path.stem: path for path in folder.iterdir()}


class Opened:
    """A page, and all that went wrong on it."""

    def __init__(
        self, browser: Browser, path: Path, width: int = 1280, scheme: Scheme = "light"
    ) -> None:
        size: Any = {"width": width, "height": 800}
        context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url[:5]))
        self.page.goto(path.as_uri())

    def close(self) -> None:
        self.page.context.close()
        assert self.complaints == []
        assert set(self.requests) == {"file:", "data:"} or self.requests == ["file:"]


def colours(frame: Locator) -> list[tuple[int, ...]]:
    """Left to right across the middle of a frame, away from the line and its handle."""
    shot = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB"))
    row = shot[shot.shape[0] // 2]
    return [tuple(int(c) for c in row[int(len(row) * share)]) for share in (0.1, 0.4, 0.6, 0.9)]


@pytest.mark.parametrize("name", ["failed", "passed", "device"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_opens_without_a_complaint(
    browser: Browser, reports: dict[str, Path], name: str, scheme: Scheme, width: int
) -> None:
    opened = Opened(browser, reports[name], width, scheme)
    page = opened.page
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert widths == ([] if name == "device" else [24] * 4 + [32] * 3)
    seen = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shades = [int(share) for share in seen.removeprefix("rgb(").removesuffix(")").split(",")]
    assert all(shade > 200 if scheme == "light" else shade < 60 for shade in shades)
    tables = page.locator(".scroll").all()
    assert tables
    boxes = [table.bounding_box() for table in tables]
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    opened.close()


def test_the_slider_moves_what_is_seen(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["failed"])
    page = opened.page
    frame, slider = page.locator(".compare").first, page.locator(".compare input").first
    assert colours(frame) == [RED, RED, BLUE, BLUE]

    slider.focus()
    assert page.evaluate("document.activeElement.type") == "range"
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert colours(frame) == [RED, RED, RED, BLUE]
    assert slider.get_attribute("aria-valuetext") == "80 % Reference, 20 % This model"
    page.keyboard.press("Home")
    assert colours(frame) == [BLUE] * 4
    page.keyboard.press("End")
    assert colours(frame) == [RED] * 4

    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.4)
    assert colours(frame) == [RED, BLUE, BLUE, BLUE]
    assert page.locator(".compare input").last.input_value() == "50"
    opened.close()


def test_what_is_compared_can_be_chosen(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["passed"])
    page = opened.page
    frame = page.locator(".compare").first
    page.get_by_role("radio", name="Original").first.check()
    assert colours(frame) == [GREEN, GREEN, BLUE, BLUE]
    badges = page.locator(".compare").last.locator("figcaption:visible").all_inner_texts()
    assert badges == ["Reference", "This model"], "where there is no original"

    page.get_by_role("radio", name="This model").last.focus()
    page.keyboard.press("ArrowRight")
    amplified = (0, 138, 255)  # 128 - 240, 128 + 10, 128 + 220, clipped
    assert colours(frame) == [GREEN, GREEN, amplified, amplified]
    opened.close()


@pytest.mark.parametrize(("width", "enlarged"), [(1280, 15), (360, 9)])
def test_each_pixel_is_enlarged_to_a_square(
    browser: Browser, reports: dict[str, Path], width: int, enlarged: int
) -> None:
    opened = Opened(browser, reports["failed"], width)
    frame = opened.page.locator(".compare").last
    frame.locator("input").press("End")
    shot = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB"))
    box = frame.bounding_box()
    assert box is not None and (box["width"], box["height"]) == (32 * enlarged, 48 * enlarged)
    # Of what neither the badges nor the line hide; a frame begins between two pixels of the screen.
    expected = crop("ramp").reference[8:-8, 1:-2]
    for at in (2, enlarged // 2, enlarged - 2):
        seen = shot[8 * enlarged + at :: enlarged, enlarged + at :: enlarged]
        np.testing.assert_array_equal(seen[: expected.shape[0], : expected.shape[1]], expected)
    opened.close()


def test_is_whole_without_its_script(browser: Browser, reports: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["failed"].as_uri())
    captions = page.locator(".compare").first.locator("figcaption:visible").all_inner_texts()
    assert captions == [
        "Original",
        "Reference",
        "This model",
        "Difference \N{MULTIPLICATION SIGN}1",
    ]
    assert page.locator(".compare input:visible").count() == 0
    context.close()


def test_paper_has_all_views_and_all_tables(
    browser: Browser, reports: dict[str, Path], tmp_path: Path
) -> None:
    opened = Opened(browser, reports["failed"], scheme="dark")
    page = opened.page
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert page.locator("img:visible").count() == 7
    assert (
        page.evaluate("getComputedStyle(document.querySelector('h2')).color") == "rgb(26, 31, 38)"
    )
    opened.close()
