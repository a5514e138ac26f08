"""Names: one name has one meaning, and what is public is listed."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("runtime", "export", "calibration", "deployment")
# Each verb is a program of its own, and programs begin with `main`.
MAY_BE_SHARED = {"main"}


def test_no_two_public_classes_or_functions_share_a_name() -> None:
    places = defaultdict(list)
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            if "device_files" in path.parts:  # programs that import nothing of ours
                continue
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != "_":
                    places[node.name].append(str(path.relative_to(ROOT)))
    shared = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert shared.keys() == MAY_BE_SHARED, shared


@pytest.mark.parametrize("layer", LAYERS)
def test_the_docs_list_the_public_names(layer: str) -> None:
    package = importlib.import_module(f"adadm.{layer}")
    page = (ROOT / "docs/guide/python.md").read_text()
    row = re.search(rf"^\| `adadm\.{layer}` \| (.*) \|$", page, re.M)
    assert row is not None
    assert sorted(re.findall(r"`(\w+)`", row[1])) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
def test_pages_name_files_that_exist(page: str | Path) -> None:
    text = (ROOT / page).read_text().partition("## What moved")[0]
    named = re.findall(rf"`((?:{'|'.join(LAYERS)}|docs|scripts|tests)/[\w/.]+)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
