"""The content tells the format; what is no checkpoint is named for what it is."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import helper

from adadm.export.weights.file_content import read_file
from adadm.runtime.errors import CheckpointError

STATE = {"w": torch.arange(4.0)}

WRITERS: dict[str, Callable[[Path], None]] = {
    "zip": lambda path: torch.save(STATE, path),
    "legacy": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    "safetensors": lambda path: safetensors.torch.save_file(STATE, path),
}
NAMES = [
    "a.pt", "a.PTH", "a.pth.tar", "a.bin", "a.SAFETENSORS", "a.ckpt", "a", "a.onnx", "ä b.model",
    "a.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_any_name_will_do(write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    content, metadata = read_file(tmp_path / name)
    assert torch.equal(content["w"], STATE["w"])
    assert metadata.get("architecture") is None


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), content)
    return buffer.getvalue()


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def checkpoint() -> bytes:
    return saved(lambda buffer: torch.save(STATE, buffer))


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pth"), io.BytesIO())
    return buffer.getvalue()


def onnx_model(**options: Any) -> bytes:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["x2"])], "g", [value], [])
    content: bytes = helper.make_model(graph, **options).SerializeToString()
    return content


def script() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.script(torch.nn.ReLU())
        return saved(lambda buffer: torch.jit.save(module, buffer))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
INDEX = {"metadata": {}, "weight_map": {"w": "m-00001-of-00002.safetensors", "v": "m-2.bin"}}

OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pointer": (lambda: LFS, r"a pointer of Git LFS, .*: git lfs pull"),
    "page": (lambda: b"\n\n<!DOCTYPE html><html>", "a web page, .*download it again"),
    "page without type": (lambda: b"\xef\xbb\xbf<HTML><head>", "a web page"),
    "error in XML": (lambda: b"<?xml version='1.0'?><Error>", "a web page"),
    "cut JSON": (lambda: b'{"weight_map": {"w"', "JSON text"),
    "Keras": (lambda: zipped(model_DOT_weights_DOT_h5=b"x"), "a Keras model"),
    "error in JSON": (lambda: b'{"error": "not found"}', "JSON text"),
    "index": (lambda: json.dumps(INDEX).encode(), r"index of .* parts \(m-00001.*join the parts"),
    "script": (script, r"a TorchScript program.*torch\.jit\.load\(FILE\)\.state_dict\(\)"),
    "zip": (lambda: zipped(a_DOT_pth=checkpoint()), r"a zip archive of a\.pth.*unpack it"),
    "arrays": (lambda: saved(lambda b: np.savez(b, a=np.ones(2))), "archive of NumPy arrays"),
    "array": (lambda: saved(lambda b: np.save(b, np.ones(2))), "a NumPy array"),
    "keras": (lambda: zipped(model_DOT_weights_DOT_h5=b"x"), "a Keras model"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
    "gzip": (lambda: gzip.compress(checkpoint()), "a gzip archive.*unpack it"),
    "tar": (tarred, "a tar archive.*unpack it"),
    "onnx": (lambda: onnx_model(producer_name="pytorch"), "an ONNX model"),
    "old onnx": (lambda: onnx_model(ir_version=4), "an ONNX model"),
    "engine": (lambda: b"ptrt" + bytes(30), "a TensorRT engine"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n", "a PNG image"),
    "text": (lambda: b"weights", "not a PyTorch checkpoint, nor a readable safetensors file"),
    "zeros": (lambda: bytes(64), "not a PyTorch checkpoint, nor a readable safetensors file"),
    "cut": (lambda: checkpoint()[:300], "damaged, truncated, or not a PyTorch checkpoint"),
    "cut header": (lambda: safetensors.torch.save(STATE)[:30], "truncated, or not a readable"),
    "cut values": (lambda: safetensors.torch.save(STATE)[:-4], "truncated, or not a readable"),
    "one byte": (lambda: b"\x80", "damaged, truncated, or not a PyTorch checkpoint"),
    "start of a model": (lambda: b"\x08", "not a PyTorch checkpoint"),
}


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_other_files_are_named(
    make: Callable[[], bytes], message: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(make())
    with pytest.raises(CheckpointError, match=rf"(?s){message}") as said:
        read_file(tmp_path / name)
    assert "weights_only" not in str(said.value)
    assert str(said.value).startswith(f"{tmp_path / name} is ")
