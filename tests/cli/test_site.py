"""The site of docs/, as scripts/docs builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from _support.documents import ROOT

# What the theme's script fetches, and what of a page makes it do so.
FETCHING = ('class="mermaid"', "glightbox", 'data-md-component="source"', "pyodide", "ace-builds")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


class Page(HTMLParser):
    """What a page loads, links to, and can be linked to by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loads += [given[name] for name in ("src", "srcset", "data") if given.get(name)]
        if tag == "link" and not {"canonical", "prev", "next"} & set(given["rel"].split()):
            self.loads.append(given["href"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


def test_links_pictures_and_anchors_of_the_built_pages_exist(site: Path) -> None:
    pages = {path: Page(path) for path in site.glob("**/*.html") if path.name != "404.html"}
    assert len(pages) >= 30
    broken = []
    for path, page in pages.items():
        for link in (*page.loads, *page.links):
            scheme, _, name, _, anchor = urlsplit(link)
            if scheme:
                continue
            target = (path.parent / unquote(name)).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_asked_of_another_host(site: Path) -> None:
    for path in site.glob("**/*.html"):
        text = path.read_text()
        assert [load for load in Page(path).loads if urlsplit(load).netloc] == []
        assert [sign for sign in FETCHING if sign in text] == []
        assert re.findall(r"<style[^>]*>[^<]*(?:@import|url\(\s*['\"]?(?:https?:)?//)", text) == []
    for path in site.glob("**/*.css"):
        assert re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", path.read_text()) == []


@pytest.mark.parametrize("link", ["nowhere.md", "folding.md#nowhere", "#nowhere"])
def test_a_dead_link_fails_the_build(link: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "explanation" / "tail.md").open("a") as page:
        page.write(f"\n[dead]({link})\n")
    built = build(tmp_path)
    assert built.returncode != 0 and "does not exist" in built.stdout + built.stderr
