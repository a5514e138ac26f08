"""Small bundles whose references are run here, on ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.runtime import json_format
from adadm.runtime.bundles.bundle import MANIFEST, BundleManifest, ShapeRange, record
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Arrays = dict[str, npt.NDArray[Any]]

ASKED_DB = 90.0
FACTOR_TOLERANCE = 0.004


def bundled(form: str = "whole") -> bytes:
    """The bundled x2 model in a form."""
    name = "edsr_adadm_x2.onnx" if form == "whole" else f"edsr_adadm_x2.{form}.onnx"
    return (resources.files("adadm.runtime.models") / name).read_bytes()


def smooth(height: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """An image (1, 3, H, W), 0..255, with waves and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + channel) * np.cos(y / (7 + seed)) for channel in range(3)]
    image = 128 + 90 * np.stack(waves) + rng.normal(0, 8, (3, height, width))
    return image.clip(0, 255).astype(np.float32)[None]


def feeds_of(form: str) -> dict[str, Arrays]:
    """By name; two of the form `whole`."""
    lr = smooth(48, 56)
    if form == "whole":
        return {"waves": {"lr": lr}, "other": {"lr": smooth(40, 48, seed=1)}}
    feed = {"lr": lr, "std": np.full((1, 8, 1, 1), 20, np.float32)}
    if form == "moments":
        feed["rows_inside"] = np.ones((1, 1, 48, 1), np.float32)
        feed["columns_inside"] = np.ones((1, 1, 1, 56), np.float32)
    return {"waves": feed}


def write_bundle(
    folder: Path,
    models: Mapping[str, bytes],
    patch: bytes | None = None,
    feeds: Mapping[str, Mapping[str, Arrays]] | None = None,
    target: str = "tensorrt-rtx",
) -> Path:
    """Write all but README, build.sh and wheels."""
    folder.mkdir(parents=True)
    names = {form: "model.onnx" if form == "whole" else f"model.{form}.onnx" for form in models}
    references = []
    for form, model in models.items():
        (folder / names[form]).write_bytes(model)
        has_factors = form == "whole" and patch is not None
        session = OnnxRuntimeSession(model + patch if has_factors and patch else model)
        for name, feed in (feeds or {}).get(form, feeds_of(form)).items():
            outputs = session.run(feed)
            psnr_db = {k: ASKED_DB for k in outputs if not k.startswith("factor_")}
            references.append(
                record(folder, name, form, inputs=feed, outputs=outputs, psnr_db=psnr_db)
            )
    if patch is not None:
        (folder / "model.factors.patch").write_bytes(patch)
    manifest = BundleManifest(
        adadm=version("adadm-deploy"),
        source_sha256="0" * 64,
        target_name=target,
        precision="float32",
        tensorrt="1.2",
        quantization=None,
        models=names,
        engines={form: name.replace(".onnx", ".engine") for form, name in names.items()},
        shapes={
            form: ({n: _range(a.shape) for n, a in feeds_of(form)["waves"].items()},)
            for form in models
        },
        workspace_bytes=1 << 28,
        factors_patch=None if patch is None else "model.factors.patch",
        factor_tolerance=FACTOR_TOLERANCE,
        references=tuple(references),
        files={},
    )
    json_format.write(folder / MANIFEST, manifest)
    sign(folder)
    return folder


def sign(folder: Path) -> None:
    """Let the manifest say that all files are as they should be."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "MANIFEST.json"]
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    edit_manifest(folder, files=digests)


def edit_manifest(folder: Path, **fields: Any) -> None:
    """Replace fields of the manifest."""
    path = folder / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _range(shape: tuple[int, ...]) -> ShapeRange:
    return ShapeRange(
        min=tuple(min(size, 40) if axis > 1 else size for axis, size in enumerate(shape)),
        opt=shape,
        max=tuple(64 if axis > 1 and size > 1 else size for axis, size in enumerate(shape)),
    )
