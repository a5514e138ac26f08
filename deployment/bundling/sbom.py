"""The bill of materials of a bundle, in CycloneDX 1.6."""

from __future__ import annotations

import json
import re
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email.parser import BytesParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adadm.runtime.engines.recipe import Recipe
from adadm.runtime.files import sha256_of

SBOM = "sbom.cdx.json"  # the name ends as CycloneDX recommends
_TOOLS = ("adadm-deploy", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")
_LICENSE = "License :: OSI Approved :: "


def bill_of_materials(recipes: Sequence[Recipe], wheels: Path) -> dict[str, Any]:
    """List the models and the wheels of a bundle, with digests and licences, and what made it.

    It depends on the content alone: it has no time, and its number follows from the rest.

    Args:
        recipes: one for each model.
        wheels: folder of the wheels; may be missing.
    """
    content = {
        "metadata": {
            "tools": {"components": list(_tools())},
            "component": {
                "type": "application",
                "name": f"bundle for {recipes[0].target.name}",
                "description": recipes[0].target.description,
            },
        },
        "components": [*map(_model, recipes), *map(_wheel, sorted(wheels.glob("*.whl")))],
    }
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": number.urn,
        "version": 1,
        **content,
    }


def _tools() -> Iterator[dict[str, str]]:
    for name in _TOOLS:
        with suppress(PackageNotFoundError):
            yield {"type": "application", "name": name, "version": version(name)}


def _model(recipe: Recipe) -> dict[str, Any]:
    path, metadata = recipe.model.path, recipe.model.metadata
    facts = {
        "precision": recipe.precision,
        "architecture": metadata.architecture,
        "upscale": metadata.upscale,
        "checkpoint_sha256": metadata.checkpoint_sha256,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": path.name,
        "name": path.name,
        "hashes": _hashes(path),
        "properties": [
            {"name": f"adadm:{name}", "value": str(value)}
            for name, value in facts.items()
            if value is not None
        ],
    }


def _wheel(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        metadata = BytesParser().parsebytes(archive.read(name))
    name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
    return {
        "type": "library",
        "bom-ref": f"wheels/{path.name}",
        "name": name,
        "version": metadata["Version"],
        "hashes": _hashes(path),
        "licenses": _licenses(metadata),
        "purl": f"pkg:pypi/{name}@{quote(metadata['Version'])}?file_name={quote(path.name)}",
    }


def _licenses(metadata: Any) -> list[dict[str, Any]]:
    """Licences as the author states them: an SPDX expression, else names; may be empty."""
    if expression := metadata["License-Expression"]:
        return [{"expression": expression}]
    classifiers = [one for one in metadata.get_all("Classifier", []) if one.startswith(_LICENSE)]
    names = [one.removeprefix(_LICENSE) for one in classifiers]
    names = names or (metadata["License"] or "").strip().splitlines()[:1]
    return [{"license": {"name": name}} for name in names]


def _hashes(path: Path) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256_of(path)}]
