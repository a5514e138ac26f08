"""The layout: which layer imports which, what is packaged, and names that would collide."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import tomllib

from adadm.runtime import cli

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


STUDIES = sorted(
    str(path.parent.relative_to(ROOT)) for path in ROOT.glob("scripts/studies/*/study.py")
)


@pytest.mark.parametrize("folder", [*LAYERS, "scripts", *STUDIES])
def test_no_file_is_named_like_a_library(folder: str) -> None:
    """A script's own folder comes first on sys.path, so the library would be shadowed."""
    for path in (ROOT / folder).glob("[!_]*.py"):
        spec = PathFinder.find_spec(path.stem, LIBRARIES)
        if spec is not None and spec.loader is None:  # folders: of the tests, or of a library
            found = list(spec.submodule_search_locations or ())
            assert not any("site-packages" in folder for folder in found), path
        else:
            assert spec is None, path


# At a layer's root: its verbs, its public doors, and what all of it is built on.
ROOTS = {
    "export": "to_onnx arguments assembly checkpoint compiler_cache guesses limits measurements "
    "options pipeline tile_models tracing",
    "calibration": "quantize drawing lowering pipeline source_network stages",
    "deployment": "validate inspect_network bundle ship signatures",
    "runtime": "upscale camera build_engine verify doctor backends bounds cli targets arguments "
    "errors files host json_format leftovers progress public_names python_process records tables "
    "telemetry terminal",
}
DATA = {"checkpoints", "device_files", "templates"}
VERBS = {verb.module for verb in cli.VERBS.values()}


def rooms(layer: str) -> list[Path]:
    """The folders of code below a layer."""
    folders = {path.parent for path in (ROOT / layer).rglob("*.py")}
    return sorted(folder for folder in folders - {ROOT / layer} if folder.name not in DATA)


def files(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("layer", LAYERS)
def test_the_rest_is_in_rooms_of_two_to_twelve_files(layer: str) -> None:
    assert files(ROOT / layer) == sorted(ROOTS[layer].split())
    for room in rooms(layer):
        assert 2 <= len(files(room)) <= 12, room
        assert (room / "__init__.py").exists(), room


def modules() -> dict[str, set[str]]:
    """What each module of ours imports of ours, whenever it does."""
    found = {}
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            if "device_files" in path.parts:
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(("adadm", *parts)).removesuffix(".__init__")
            found[name] = {_module(entry) for entry in _names(path) if entry.startswith("adadm.")}
    return found


def _names(path: Path) -> Iterator[str]:
    """Each name that is imported when the module is, with the module that it is from."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(name: str) -> str:
    path = ROOT.joinpath(*name.split(".")[1:])
    return name if path.is_dir() or path.with_suffix(".py").exists() else name.rpartition(".")[0]


def test_imports_make_no_circle() -> None:
    list(TopologicalSorter(modules()).static_order())


@pytest.mark.parametrize("layer", LAYERS)
def test_rooms_make_no_circle(layer: str) -> None:
    """A room is a folder at a layer's root, with the folders in it; a file there is one too."""
    rooms: dict[str, set[str]] = {}
    for name, imported in modules().items():
        if name.startswith(prefix := f"adadm.{layer}."):
            below = {other.split(".")[2] for other in imported if other.startswith(prefix)}
            rooms.setdefault(name.split(".")[2], set()).update(below)
    list(TopologicalSorter({room: below - {room} for room, below in rooms.items()}).static_order())


def test_no_room_imports_what_stands_above_it_as_a_verb() -> None:
    verbs = VERBS | {"adadm.runtime.camera", "adadm.runtime.verify"}
    for name, imported in modules().items():
        assert not imported & verbs, name


def test_unit_tests_mirror_the_sources() -> None:
    """A test is named like its module; what follows that name says which part."""
    for path in (ROOT / "tests" / "unit").rglob("test_*.py"):
        place = path.parent.relative_to(ROOT / "tests" / "unit")
        if place.parts and place.parts[0] in LAYERS:
            name = path.stem.removeprefix("test_")
            stems = [*files(ROOT / place), ROOT.joinpath(place).name]
            assert any(name == stem or name.startswith(f"{stem}_") for stem in stems), path


@pytest.mark.parametrize("layer", LAYERS)
def test_no_room_is_named_like_a_library(layer: str) -> None:
    """A verb that is run by its path puts its layer first on sys.path."""
    for room in rooms(layer):
        spec = PathFinder.find_spec(room.name, LIBRARIES)
        found = list((spec and spec.submodule_search_locations) or ())
        assert spec is None or (spec.loader is None and not any("site-pack" in f for f in found))


def test_there_is_no_root_package() -> None:
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("layer", LAYERS)
def test_files_stay_small(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 320, path
