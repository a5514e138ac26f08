from __future__ import annotations

from pathlib import Path

import pytest

from adadm.runtime.models.bundled import BUNDLED, bundled_path, is_engine, variant_path


@pytest.mark.parametrize(
    ("model", "tile"),
    [
        ("a/x2.onnx", "a/x2.tile.onnx"),
        ("a.b/x2.v1.engine", "a.b/x2.v1.tile.engine"),
        ("x2.plan", "x2.tile.plan"),
        ("x2", "x2.tile.onnx"),  # export writes what it is told
        ("x2.v1", "x2.tile.onnx"),
    ],
)
def test_a_form_of_a_model_is_beside_it(model: str, tile: str) -> None:
    assert variant_path(Path(model), "tile") == Path(tile)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x2.engine", True),
        ("x2.plan", True),
        ("x2.onnx", False),
        ("engine", False),
    ],
)
def test_an_engine_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_engine(name) is is_engine(Path("folder.engine") / name) is expected


def test_bundled_models_and_their_forms_are_there() -> None:
    for name in BUNDLED:
        for form in ("tile", "moments"):
            assert variant_path(bundled_path(name), form).is_file()
