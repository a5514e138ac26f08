from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from adadm.deployment.bundling.sbom import bill_of_materials
from adadm.runtime import json_format
from adadm.runtime.engines.recipe import make_recipe
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.targets import TARGETS

SPDX = {"licenses": [{"expression": "MIT AND BSD-3-Clause"}]}
CLASSIFIED = {"licenses": [{"license": {"name": "BSD License"}}]}
NAMED = {"licenses": [{"license": {"name": "BSD-like"}}]}


def wheel(folder: Path, name: str, version: str, *fields: str) -> bytes:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.dist-info/licenses/METADATA", "Name: vendored")
        archive.writestr(f"{path.name}.dist-info/METADATA", head + "".join(fields) + "\nA text.\n")
    return path.read_bytes()


def described(folder: Path) -> dict[str, Any]:
    model = read_onnx(Path(bundled_path("x2")))
    recipe = make_recipe(model, TARGETS["tensorrt10"], ())
    return bill_of_materials([recipe], folder)


def test_parts_with_digests_and_licences(tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    classifier = "Classifier: License :: OSI Approved :: BSD License\n"
    contents = {
        "Some.Name": wheel(
            folder, "Some.Name", "1.0", "License-Expression: MIT AND BSD-3-Clause\n"
        ),
        "classified": wheel(folder, "classified", "2.0+cpu", "License: a whole text\n", classifier),
        "named": wheel(folder, "named", "3", "License: BSD-like\n        and more\n"),
        "without": wheel(folder, "without", "4"),
    }
    found = described(folder)
    model, *wheels = found["components"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "edsr_adadm_x2.onnx")
    assert {"name": "adadm:precision", "value": "float32"} in model["properties"]
    names = ["some-name", "classified", "named", "without"]
    assert [(w["name"], w["version"]) for w in wheels] == [
        *zip(names, ["1.0", "2.0+cpu", "3", "4"], strict=True)
    ]
    digests = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    assert [w["hashes"] for w in wheels] == [[{"alg": "SHA-256", "content": d}] for d in digests]
    licences = [SPDX, CLASSIFIED, NAMED, {"licenses": []}]
    assert [{"licenses": w["licenses"]} for w in wheels] == licences
    assert wheels[1]["purl"] == (
        "pkg:pypi/classified@2.0%2Bcpu?file_name=classified-2.0%2Bcpu-py3-none-any.whl"
    )
    assert found["metadata"]["tools"]["components"][0]["name"] == "adadm-deploy"


def test_it_is_what_the_schema_asks_and_the_same_each_time(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "named", "1.0", "License: BSD\n")
    found = described(tmp_path / "wheels")
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json_format.text(found)) is None
    assert described(tmp_path / "wheels") == found
    without = described(tmp_path / "none")
    assert validator.validate_str(json_format.text(without)) is None
    assert without["serialNumber"] != found["serialNumber"]


@pytest.mark.parametrize("part", ["type", "name"])
def test_the_schema_is_held(tmp_path: Path, part: str) -> None:
    found = described(tmp_path)
    del found["components"][0][part]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json_format.text(found))
