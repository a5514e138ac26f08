"""A bundle of some kilobytes that runs here, the same each time, for readers of bundles."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from _support.bundles import sign, smooth, write_bundle
from adadm.runtime import json_format
from adadm.runtime.bundles.bundle import Bundle
from adadm.runtime.bundles.verification import verify
from fuzz.reader import Files, read_files


def tiny_model() -> bytes:
    """A model that enlarges by 2, by repeating pixels."""
    nodes = [helper.make_node("Resize", ["lr", "", "scales"], ["sr"], mode="nearest")]
    planes: tuple[list[str | int | None], ...] = ["N", 3, "H", "W"], ["N", 3, "2H", "2W"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, planes[0])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, planes[1])],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    notes = {"adadm.upscale": "2", "adadm.rgb_range": "255", "adadm.io": "float32"}
    helper.set_model_props(model, notes)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def tiny_bundle(target: str = "jetson-orin-jp62") -> Files:
    """Files of a bundle with one reference."""
    feeds = {"whole": {"waves": {"lr": smooth(9, 12)}}}
    with tempfile.TemporaryDirectory() as name:
        folder = write_bundle(Path(name) / "b", {"whole": tiny_model()}, feeds=feeds, target=target)
        for path in folder.rglob("*.npz"):
            path.write_bytes(_without_dates(path.read_bytes()))
        sign(folder)
        return read_files(folder)


def with_result(files: Files) -> Files:
    """A bundle, and what `verify.py --json` wrote of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        report = verify(Bundle.open(folder), "cpu", 0.001).report
    content = json.loads(json_format.text(report))
    content["latency"] = None  # of this machine, and of this moment
    content["device"] = {
        "board": "NVIDIA Jetson Orin",
        "l4t": "36.4.3",
        "versions": {"python": "3.10"},
    }
    content["reason"] = "selected explicitly"
    return {
        **{f"bundle/{name}": data for name, data in files.items()},
        "result.json": _json(content),
    }


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _without_dates(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), old.read(name))
    return written.getvalue()
