"""What a report may be made of, whatever strings it was given."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from _support.report_pages import Page
from fuzz.reader import Fault

_TAGS = set(
    re.findall(
        r"\w+",
        """html head meta link title style script body header footer main nav section article
        h1 h2 h3 p span div a ul ol li dl dt dd table caption thead tbody tr th td code pre
        img figure figcaption svg g rect line path text circle polyline polygon button input
        fieldset legend label details summary strong em b i small br time use symbol defs
        output desc colgroup col template""",
    )
)


def _steers(character: str) -> bool:
    """True for what steers a terminal, lines, or the direction of text."""
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return True
    steering = unicodedata.category(character) == "Cf" and unicodedata.bidirectional(character)
    return steering not in (False, "", "BN", "ON", "AN", "NSM")


def check_page(path: Path) -> None:
    """Check the parts of a page.

    Raises:
        Fault: it has tags, scripts or addresses of others, or characters that steer the text.
    """
    try:
        page = Page(path)
    except AssertionError as error:
        raise Fault("tags do not nest") from error
    tags = {tag for tag, _ in page.tags}
    if not tags <= _TAGS or len(page.all("script")) > 1:
        raise Fault(f"tags {tags - _TAGS}, {len(page.all('script'))} scripts")
    handlers = [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    addresses = [a for a in page.values("href", "src") if not a.startswith(("#", "data:"))]
    if handlers or addresses:
        raise Fault(f"{handlers} and {addresses}")
    text = path.read_text(encoding="utf-8")
    if steering := {c for c in text if _steers(c)} - {"\n"}:
        raise Fault(f"{sorted(map(ascii, steering))} are in the page as they are")
    if re.search(r"style=\"[^\"]*(url|expression|@import)", text):
        raise Fault("a style refers to something")
