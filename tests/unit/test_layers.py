"""The layout: which layer imports which, what is packaged, and names that would collide."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("runtime", "export", "calibration", "deployment")
# Before other tests change it: some libraries put folders of their own on the path.
LIBRARIES = [entry for entry in sys.path if Path(entry) != ROOT / "scripts"]
# A layer may import itself and these.
ALLOWED: dict[str, set[str]] = {
    "runtime": set(),
    "calibration": {"export", "runtime"},
    "deployment": {"calibration", "export", "runtime"},
    "export": {"runtime"},
}
# What a device does not have.
HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "skimage", "scipy"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "adadm" and len(parts) > 1 and parts[1] != layer:
                assert parts[1] in ALLOWED[layer], f"{path} imports {name}"
            if layer == "runtime":
                assert parts[0] not in HEAVY, f"{path} imports {name}"


def test_every_folder_with_code_or_data_is_packaged() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["setuptools"]
    folders = {
        "adadm." + ".".join(path.parent.relative_to(ROOT).parts)
        for layer in LAYERS
        for pattern in ("*.py", "*.safetensors", "*.onnx", "*.j2")
        for path in (ROOT / layer).rglob(pattern)
    }
    assert folders == set(settings["packages"])
    assert settings["package-dir"] == {f"adadm.{layer}": layer for layer in LAYERS}


@pytest.mark.parametrize("folder", [*LAYERS, "scripts"])
def test_no_file_is_named_like_a_library(folder: str) -> None:
    """A script's own folder comes first on sys.path, so the library would be shadowed."""
    for path in (ROOT / folder).glob("[!_]*.py"):
        spec = PathFinder.find_spec(path.stem, LIBRARIES)
        if spec is not None and spec.loader is None:  # folders: of the tests, or of a library
            found = list(spec.submodule_search_locations or ())
            assert not any("site-packages" in folder for folder in found), path
        else:
            assert spec is None, path


def test_there_is_no_root_package() -> None:
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("layer", LAYERS)
def test_files_stay_small(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 320, path
