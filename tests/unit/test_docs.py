"""The pages: their links, what they repeat of the sources, and the programs beside them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib

from _support.documents import GUIDE, PAGES, ROOT, anchors, code_blocks, links
from adadm.runtime.cli import VERBS
from adadm.runtime.images.arrays import batch_from_image, image_from_batch

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_links_of_the_site_stay_in_the_site() -> None:
    outside = {
        (page.name, link)
        for page in PAGES
        if page.is_relative_to(ROOT / "docs")
        for link in links(page.read_text())
        if not link.startswith(("https://", "#"))
        and not (page.parent / link).resolve().is_relative_to(ROOT / "docs")
    }
    assert outside == set()


def test_the_navigation_has_every_page_once() -> None:
    def pages(entries: list[Any]) -> list[str]:
        values = [value for entry in entries for value in entry.values()]
        return [
            page
            for value in values
            for page in ([value] if isinstance(value, str) else pages(value))
        ]

    listed = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(str(p.relative_to(docs)) for p in docs.glob("**/*.md"))


def test_the_readme_is_short_and_names_every_verb() -> None:
    assert len(README.encode()) <= 8192
    for verb in VERBS:
        assert f"[`{verb}`](docs/guide/{verb}.md)" in README
        assert f"<!-- options: adadm {verb} -->" in (GUIDE / f"{verb}.md").read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", GUIDE / "build.md"], ids=lambda p: p.name)
def test_pages_show_the_program_that_is_type_checked(page: Path) -> None:
    program = (GUIDE / "run_plan.py").read_text().partition('"""\n\n')[2]
    assert program in code_blocks(page.read_text(), "python")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_pages_is_python(page: Path) -> None:
    for block in code_blocks(page.read_text(), "python"):
        compile(block, page.name, "exec")


def test_messages_of_the_guide_are_in_the_sources() -> None:
    texts = [path.read_text() for path in (ROOT / "deployment").glob("**/*.sh")]
    for layer in ("runtime", "export", "calibration", "deployment"):
        for path in (ROOT / layer).glob("**/*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(str(getattr(part, "value", "")) for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    sources = "\n".join(texts)
    table = (GUIDE / "errors.md").read_text().partition("## From the message")[2]
    messages = re.findall(r"^\| `(.+?)` \|", table, re.M)
    assert len(messages) > 30
    parts = [part.strip() for message in messages for part in message.split("...")]
    assert [part for part in parts if part not in sources] == []


@pytest.mark.parametrize("rgb_range", [255.0, 1.0])
def test_the_header_converts_as_the_runtime_does(tmp_path: Path, rgb_range: float) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ is installed")
    image = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)
    sr = np.random.default_rng(6).uniform(-0.2, 1.2, (1, 3, 5, 7)).astype(np.float32) * rgb_range
    sr[0, :, 0, :4] = np.array([0.5, 1.5, 2.5, 254.5], np.float32) * (rgb_range / 255)  # ties
    (tmp_path / "in").write_bytes(image.tobytes() + sr.tobytes())
    (tmp_path / "convert.cpp").write_text(
        f"""
        #include "adadm_tensors.h"
        #include <cstdio>
        int main() {{
            unsigned char rgb[105];
            float sr[105], lr[105];
            if (std::fread(rgb, 1, 105, stdin) != 105 || std::fread(sr, 4, 105, stdin) != 105)
                return 1;
            adadm::fill_lr(rgb, 5, 7, 21, {rgb_range}f, lr);
            adadm::read_sr(sr, 5, 7, 21, {rgb_range}f, rgb);
            std::fwrite(lr, 4, 105, stdout);
            std::fwrite(rgb, 1, 105, stdout);
        }}
        """
    )
    program = tmp_path / "convert"
    warnings = ("-std=c++11", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", "-O1")
    files = [str(tmp_path / "convert.cpp"), "-o", str(program)]
    subprocess.run([compiler, *warnings, f"-I{GUIDE}", *files], check=True)
    with (tmp_path / "in").open("rb") as fed:
        made = subprocess.run([program], stdin=fed, capture_output=True, check=True).stdout
    assert made[:420] == batch_from_image(image, rgb_range).tobytes()
    assert made[420:] == image_from_batch(sr, rgb_range).tobytes()
